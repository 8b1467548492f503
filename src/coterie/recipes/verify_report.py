"""A report checked by replay: the model's digests first, then items drawn by a nonce, one by one."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from pathlib import Path

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config.base import apply_overrides
from coterie.config.errors import ConfigError
from coterie.config.evaluate import EvalConfig
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.replay import (
    NoisyTests,
    check_counted,
    differs,
    drawn,
    noisy_power,
    noisy_tests,
    replay,
)
from coterie.evaluate.subject import Subject
from coterie.evidence.canonical import digest_of
from coterie.evidence.claims import append_claim
from coterie.evidence.keys import SigningKey
from coterie.evidence.statements import REPRODUCED, short, sign_statement
from coterie.hub.names import HubName
from coterie.recipes.eval_findings import reply_options
from coterie.recipes.evaluate import asked_of, benchmarks_of, open_subject, read_report
from coterie.results.evaluation import EvalReport, ExecProfile, ItemRecord, ModelIdentity
from coterie.results.release import ReplayedItems
from coterie.results.reproduction import Reproduction, TaskReproduction
from coterie.stats.power import replay_power

_log = logging.getLogger("coterie")
ITEMS = 149  # of each task: 95 % that an inflation of 2 % is found
SHARES = (0.02, 0.05, 0.10)
_DIGESTS = {
    "weights_tensors": "weights",
    "config": "config",
    "tokenizer": "tokenizer",
    "chat_template": "chat template",
    "generation_config": "generation settings",
}
# What decides the bits of a result; another commit or package need not.
_SAME = ("engine", "dtype", "quantisation", "kernels", "device", "processor", "threads", "torch")
_FEW = 5  # mismatches that are written out


def verify_report(
    folder: Path,
    model: str,
    items: int = ITEMS,
    noisy: bool = False,
    nonce: str | None = None,
    settings: Sequence[str] = (),
    subject: Subject | None = None,
) -> Reproduction:
    """Replay `items` of each task of the report in `folder` on `model`.

    `noisy`: on another machine, where rounding turns some answers. `nonce`: decides which items; None: a new
    one. `settings`: over those of the report, such as `dtype=float32`. `subject`: `model`, opened already.
    Errors: `CoterieError` subclasses, one line each: records that are not the report's, a score that is
    not theirs, another model, a task that is another one here, and in exact mode a machine that computes
    otherwise.
    """
    found = read_report(folder)
    report = found.report
    config = _config(report, model, settings)
    subject = subject or open_subject(config)
    check_identity(model, report.subject, subject.identity)
    if not noisy:
        check_profile(report.exec_profile, subject.profile)
    nonce = nonce or secrets.token_hex(16)
    digest = digest_of(report)
    tasks = []
    for benchmark in benchmarks_of(config):
        records, result = found.records.get(benchmark.name), report.task(benchmark.name)
        if records is None or result is None:
            raise ConfigError(f"{folder}: its report has no task '{benchmark.name}'")
        check_counted(result, records, benchmark, config.limit, config.seeds)
        claimed = [records[place] for place in drawn(digest, nonce, items, len(records))]
        options = reply_options(config, benchmark)
        _log.info("%s: %d items of %s are replayed", model, len(claimed), benchmark.name)
        again = replay(asked_of(subject, benchmark), benchmark, options, claimed)
        tests = None
        if noisy:
            other = asked_of(_otherwise(subject), benchmark)
            tests = noisy_tests(claimed, again, replay(other, benchmark, options, claimed))
        tasks.append(_task(benchmark.name, claimed, again, len(records), tests))
    return Reproduction(
        report=digest,
        nonce=nonce,
        mode="noisy" if noisy else "exact",
        model=subject.identity,
        exec_profile=subject.profile,
        tasks=tasks,
        reproduced=all(task.reproduced for task in tasks),
    )


def report_folder(report: str) -> Path:
    """The folder of a report: given itself, by its `report.json`, or by the hub id of its release.

    Errors: `CheckpointError` for a hub id that cannot be downloaded.
    """
    path = Path(report)
    if path.is_file():
        return path.parent
    return Checkpoint.open(report).path if not path.exists() and HubName.parse(report) else path


def replayed_items(folder: Path, model: str, items: int) -> tuple[ReplayedItems, list[str]]:
    """Replay `items` of each task before a release is signed; what was run, and what speaks against it."""
    try:
        found = verify_report(folder, model, items)
    except ConfigError as error:
        why = f"no item could be run again: {error}; --m 0 releases without a replay"
        return ReplayedItems(items=0, differ=0), [why]
    ran = sum(task.items for task in found.tasks)
    differ = sum(task.mismatches for task in found.tasks)
    lines = [f"{task.task}: {line}" for task in found.tasks for line in task.first]
    if differ > len(lines):
        lines.append(f"{differ} of {ran:,} items that were run again differ")
    return ReplayedItems(items=ran, differ=differ), lines


def sign_reproduction(found: Reproduction, key: SigningKey, claims: Path) -> None:
    """Append the signed `reproduced` statement to a file of claims.

    Errors: `ConfigError` for a report that was not reproduced; `CoterieError` for an unusable file.
    """
    if not found.reproduced:
        raise ConfigError("reproduction: the report was not reproduced, so nothing is signed")
    subjects = {"report": found.report, "weights": str(found.model.weights_tensors)}
    append_claim(claims, sign_statement(key, subjects, REPRODUCED, found))


def check_identity(model: str, claimed: ModelIdentity, here: ModelIdentity) -> None:
    """Errors: `ConfigError` naming the first digest that is not the report's."""
    if claimed.weights_tensors is None:
        raise ConfigError("report: does not say which weights were scored, so nothing can be checked")
    name = next(
        (name for name in _DIGESTS if getattr(claimed, name) not in (None, getattr(here, name))), None
    )
    if name is not None:
        ours, theirs = (short(getattr(one, name) or "none") for one in (here, claimed))
        raise ConfigError(
            f"{model}: is not the model of the report: its {_DIGESTS[name]} ({name}) are {ours}, "
            f"the report's are {theirs}"
        )


def check_profile(claimed: ExecProfile, here: ExecProfile) -> None:
    """Errors: `ConfigError` where bits cannot be expected to be the same."""
    if not claimed.exact:
        raise ConfigError(
            "report: was made with exact=false, so its bits depend on the batches; replay it with --noisy"
        )
    for name in _SAME:
        theirs, ours = getattr(claimed, name), getattr(here, name)
        if theirs != ours:
            raise ConfigError(
                f"report: was made with {name} {theirs or 'unknown'}, here it is {ours or 'unknown'}; replay "
                "it with --noisy, or run it in the same way"
            )


def _config(report: EvalReport, model: str, settings: Sequence[str]) -> EvalConfig:
    given = dict(report.settings) | {"model": model}
    given.setdefault("tasks", [task.id for task in report.tasks])
    return EvalConfig.from_dict(apply_overrides(given, settings), "report")


def _otherwise(subject: Subject) -> Subject:
    """The same model computed in other batches: the second honest run."""
    if not isinstance(subject, LocalSubject):
        return subject
    return LocalSubject(
        subject.model, subject.identity.name, not subject.exact, subject.identity, subject.profile
    )


def _task(
    name: str,
    claimed: Sequence[ItemRecord],
    again: Sequence[ItemRecord],
    total: int,
    tests: NoisyTests | None,
) -> TaskReproduction:
    told = [(one.id, differs(one, other)) for one, other in zip(claimed, again, strict=True)]
    wrong = [f"item {id}: {why}" for id, why in told if why]
    if tests is None:
        finds = {f"{share:g}": replay_power(total, len(claimed), share) for share in SHARES}
        facts: dict[str, float | None] = {}
    else:
        finds = {f"{share:g}": noisy_power(len(claimed), share, allowed=tests.noise) for share in SHARES}
        facts = {
            "noise": tests.noise,
            "p_lost": tests.p_lost,
            "p_flips": tests.p_flips,
            "p_logprobs": tests.p_logprobs,
        }
    return TaskReproduction(
        task=name,
        items=len(claimed),
        of=total,
        mismatches=len(wrong),
        first=wrong[:_FEW],
        finds=finds,
        **facts,
        reproduced=not wrong if tests is None else tests.reproduced,
    )
