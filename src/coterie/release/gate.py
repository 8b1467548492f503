"""The gate: every reason not to release a model with a report, default deny.

A rule yields one line for each reason. All rules run, so that a publisher sees everything at once. A receiver
runs the same rules on the bundle (`release/check.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import MANIFEST, PULLED, verify_files
from coterie.config import CheckpointError, CoterieError
from coterie.config.files import file_sha256
from coterie.evidence.keys import PublicKey
from coterie.evidence.ledger import Ledger
from coterie.evidence.statements import short
from coterie.identity.files import weights_files
from coterie.identity.model import template_digest, tokenizer_digest
from coterie.identity.tensors import stored_weight_tree
from coterie.identity.tree import WeightTree
from coterie.release.numbers import stray_numbers
from coterie.release.report_files import ReportFiles
from coterie.results.evaluation import Waiver
from coterie.verify.known import known_identity


@dataclass(frozen=True)
class Refusal:
    """One reason. `rule`: the name of the rule that it comes from."""

    rule: str
    says: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.says}"


@dataclass(frozen=True)
class Case:
    """What a release consists of.

    `keys`: of those who may have signed the report. `waivers`: signed ones, besides the report's. `licence`:
    its file. `prose`: name -> text that will be public and is not rendered. `indexes`: files of indexes that
    go with it. `endpoints`: servers that are advertised with it. `ledger`: of looks, where it is at hand.
    `tree`: the weight tree that was signed, which names the parts that differ.
    """

    checkpoint: Checkpoint
    evidence: ReportFiles
    keys: Sequence[PublicKey]
    waivers: Sequence[Waiver] = ()
    licence: Path | None = None
    prose: Mapping[str, str] = field(default_factory=dict)
    indexes: Sequence[Path] = ()
    endpoints: Sequence[str] = ()
    ledger: Path | None = None
    tree: WeightTree | None = None

    @cached_property
    def found(self) -> WeightTree:
        """The tree of the tensors in the files, computed from their bytes.

        Files that are not those of the directory's manifest are read too, to say where they differ.
        """
        try:
            return stored_weight_tree(self.checkpoint)
        except CheckpointError:
            if not self.checkpoint.manifest:
                raise
            with TemporaryDirectory() as folder:
                for file in self.checkpoint.path.iterdir():
                    if file.name != MANIFEST:
                        (Path(folder) / file.name).symlink_to(file.absolute())
                return stored_weight_tree(folder)

    @property
    def waived(self) -> frozenset[str]:
        """The flags that a person has let pass."""
        return frozenset(one.flag for one in (*self.evidence.report.waivers, *self.waivers))


def refusals(case: Case) -> list[Refusal]:
    """All reasons, in the order of the rules; empty for a release that may go out."""
    found = []
    for name, rule in RULES.items():
        try:
            found += [Refusal(name, says) for says in rule(case)]
        except CoterieError as error:
            found.append(Refusal(name, str(error)))
    return found


def identity(case: Case) -> Iterator[str]:
    """Every number must be of these weights, this tokenizer and this template."""
    subject, checkpoint = case.evidence.report.subject, case.checkpoint
    if checkpoint.manifest:
        try:
            verify_files(checkpoint.path, checkpoint.manifest)
        except CheckpointError as error:
            yield str(error)
    root = case.found.root
    if subject.weights_tensors is None:
        yield "the report does not say which weights were scored; score the model itself, not only a server"
    elif subject.weights_tensors != root:
        where = "; ".join(case.tree.differences(case.found)) if case.tree is not None else ""
        yield (
            f"the report is of the weights {short(subject.weights_tensors)}, and the files hold "
            f"{short(root)}{f' ({where})' if where else ''}; score these weights"
        )
    tokenizer = checkpoint.tokenizer
    pairs = {
        "tokenizer": (subject.tokenizer, None if tokenizer is None else tokenizer_digest(tokenizer)),
        "chat template": (subject.chat_template, None if tokenizer is None else template_digest(tokenizer)),
    }
    if subject.weights_files is not None:
        pairs["weight files"] = subject.weights_files, weights_files(checkpoint)
    for what, (said, here) in pairs.items():
        if said != here:
            names = (short(digest) if digest else "none" for digest in (said, here))
            yield "the report is of the {} {}, and the directory has {}".format(what, *names)


def signature(case: Case) -> Iterator[str]:
    """The report must be signed, and say what its records say."""
    try:
        case.evidence.statement(case.keys)
    except CoterieError as error:
        yield str(error)
    yield from case.evidence.problems()


def plan(case: Case) -> Iterator[str]:
    """The plan must have been locked before the first look at the test items."""
    report = case.evidence.report
    if report.plan is None:
        yield "the report names no plan that was locked before the items were scored"
        return
    locked, made = _time(report.plan.locked_at), _time(report.created)
    if locked is not None and made is not None and locked > made:
        yield f"the plan was locked at {report.plan.locked_at}, after the report was made ({report.created})"
    if case.ledger is None:
        return
    heads = [report.looks.head] if report.looks is not None else []
    entries = Ledger(case.ledger).check(heads)
    items = {task.items: task.id for task in report.tasks}
    for number, entry in enumerate(entries):
        name = items.get(entry.task_items_digest)
        if name is None or entry.tensor_digest != report.subject.weights_tensors or entry.split == "dev":
            continue
        early = report.plan.ledger_pos is not None and number < report.plan.ledger_pos
        looked = _time(entry.time)
        if early or (locked is not None and looked is not None and looked < locked):
            yield f"{name} was first looked at {entry.time}, before the plan was locked"
        del items[entry.task_items_digest]
    for name in items.values():
        yield f"{name} was scored, and the ledger {case.ledger} has no look at it"


def indexes(case: Case) -> Iterator[str]:
    """Every stage of training must have an index of all that it read."""
    stages = case.evidence.report.training.stages
    if not stages and "training:stages" not in case.waived:
        yield "the report names no stage of training, so nobody can look for its items in the data"
    given = {file_sha256(path) for path in case.indexes}
    for stage in stages:
        digest = (stage.index or "").removeprefix("sha256:")
        if f"index:{stage.name}" in case.waived:
            continue
        if stage.index is None:
            yield f"the stage {stage.name} has no index of its data (coterie index build)"
        elif stage.index_coverage is None or abs(stage.index_coverage - 1) > 1e-6:
            share = "unknown" if stage.index_coverage is None else f"{stage.index_coverage:.2%}"
            yield f"the index of the stage {stage.name} holds {share} of the tokens that were trained on"
        elif case.indexes and digest not in given:
            yield f"the stage {stage.name} was searched by the index {short(digest)}, which is not here"


def flags(case: Case) -> Iterator[str]:
    """A report that says REFUSE needs a signed waiver for each of its flags."""
    report = case.evidence.report
    if report.verdict != "REFUSE":
        return
    open_flags = [flag for flag in report.flags if flag not in case.waived]
    for flag in open_flags:
        yield f"{flag} is flagged and not waived; --waive '{flag}=REASON' signs a waiver that the card prints"
    if not report.flags:
        yield "the report's verdict is REFUSE, and it names no flag that could be waived"


def profile(case: Case) -> Iterator[str]:
    """Scores must not depend on what else was in the batch."""
    report = case.evidence.report
    if report.exec_profile.dropless is not True:
        yield "the model was not run dropless, so scores depend on the batch"
    for task in report.tasks:
        if task.invariance is not None and task.invariance.dropped_tokens:
            yield f"{task.id}: {task.invariance.dropped_tokens:,} tokens were dropped"
    measured = any(task.invariance is not None for task in report.tasks)
    if report.exec_profile.batch_invariant is None and not measured:
        yield "nobody measured whether scores depend on the batch (coterie eval invariance)"


def numbers(case: Case) -> Iterator[str]:
    """No text may state a benchmark number that is not in the report."""
    for name, text in case.prose.items():
        for stray in stray_numbers(text, case.evidence.report):
            yield f"{name} {stray}, which the report does not hold"


def endpoints(case: Case) -> Iterator[str]:
    """A server that is advertised with the model must serve its weights."""
    expected = case.evidence.report.subject.weights_tensors
    for url in case.endpoints:
        served = served_weights(url)
        if served != expected:
            shown = short(served) if served else "none that it names"
            yield f"{url} serves the weights {shown}, and the report is of {short(expected or 'none')}"


def papers(case: Case) -> Iterator[str]:
    """Licence, safety section, facts of the training, tokenizer and chat template must be there."""
    report, checkpoint = case.evidence.report, case.checkpoint
    if case.licence is None:
        yield "there is no licence; put a file LICENSE into the directory or give --license FILE"
    elif not case.licence.is_file() or not case.licence.read_bytes().strip():
        yield f"{case.licence} is not a file with the text of a licence"
    if report.safety is None or not report.safety.measures:
        yield "the report has no safety section (coterie eval MODEL safety ...)"
    if not report.tasks:
        yield "the report scores no task"
    if not checkpoint.manifest:
        yield f"the directory has no {MANIFEST}, which says what the model was trained on"
    elif report.training.manifest is None:
        yield f"the report does not name the facts of the training in {MANIFEST}"
    elif PULLED not in checkpoint.manifest and report.training.manifest != _sha256(
        checkpoint.path / MANIFEST
    ):
        yield f"the report names other facts of the training than the {MANIFEST} that is here"
    if checkpoint.tokenizer is None:
        yield "the directory has no tokenizer"
    elif template_digest(checkpoint.tokenizer) is None:
        yield "the tokenizer has no chat template"


RULES: dict[str, Callable[[Case], Iterator[str]]] = {
    "identity": identity,
    "signature": signature,
    "plan": plan,
    "index": indexes,
    "flag": flags,
    "profile": profile,
    "number": numbers,
    "endpoint": endpoints,
    "missing": papers,
}


def served_weights(url: str) -> str | None:
    """The tensor digest that a server states of its model, or None. Errors: as `known_identity`."""
    return known_identity(url).identity.weights_tensors


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(re.sub("Z$", "+00:00", text))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _sha256(path: Path) -> str:
    return f"sha256:{file_sha256(path)}"
