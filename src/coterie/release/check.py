"""What a receiver checks of a release: its files, signatures, digests, scores and card."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import MANIFEST, PULLED
from coterie.config import CoterieError
from coterie.config.files import read_json
from coterie.evidence.claims import CLAIMS
from coterie.evidence.keys import PublicKey
from coterie.evidence.statements import REPRODUCED, Statement, short, signers_of, verify_statement
from coterie.identity.tree import WeightTree
from coterie.release.card import render_card, rendered_by
from coterie.release.gate import Case, Refusal, endpoints, refusals
from coterie.release.layout import (
    ABOUT,
    CARD,
    INDEXES,
    RELEASE,
    TENSORS,
    TREE,
    card_facts,
    facts_digest,
    released_files,
)
from coterie.release.numbers import stray_numbers
from coterie.release.report_files import ReportFiles, key_words
from coterie.results.release import RELEASE_SCHEMA, ReleaseRecord


@dataclass(frozen=True)
class CheckedRelease:
    """What a check found. `record`: what was signed, None without a valid signature. `notes`: for people."""

    path: str
    record: ReleaseRecord | None
    refusals: list[Refusal]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "path": self.path,
            "valid": not self.refusals,
            "release": None if self.record is None else self.record.to_dict(),
            "reasons": [{"rule": one.rule, "says": one.says} for one in self.refusals],
            "notes": self.notes,
        }


def check_release(path: str | Path, keys: Sequence[PublicKey]) -> CheckedRelease:
    """Check a release in a directory, or on the hub (`owner/name`), by the publisher's keys.

    Nothing is believed that can be computed: digests are taken of the bytes, scores of the records, and the
    card is rendered again. Errors: `CoterieError` for something that is not a release at all.
    """
    checkpoint = Checkpoint.open(path)
    folder = checkpoint.path
    evidence = ReportFiles.read(folder)
    found: list[Refusal] = []
    statement = record = None
    try:
        statement, record = _statement(evidence, keys)
    except CoterieError as error:
        found.append(Refusal("signature", str(error)))
    tree = _tree(folder, found)
    if statement is not None and record is not None:
        found += [Refusal("file", says) for says in _files(checkpoint, statement, record)]
        if tree is not None and statement.subjects.get(TENSORS) != tree.root:
            found.append(Refusal("file", f"{TREE} is not of the weights that were signed"))
    case = Case(
        checkpoint,
        evidence,
        keys,
        waivers=() if record is None else record.waivers,
        licence=folder / (record.licence_file if record is not None else "LICENSE"),
        prose=_prose(folder),
        indexes=sorted((folder / INDEXES).glob("*")),
        tree=tree,
    )
    found += refusals(case)
    if statement is not None and record is not None:
        key = next(key for key in keys if key.key_id == statement.signers[0])
        found += [Refusal("card", says) for says in _card(folder, case, record, key)]
    return CheckedRelease(str(path), record, found, list(_notes(evidence, keys, record)))


def check_endpoint(url: str, evidence: ReportFiles) -> CheckedRelease:
    """Check that a server serves the weights that a report is of. Errors: as `known_identity`."""
    checkpoint: Any = None  # not looked at by this rule
    case = Case(checkpoint, evidence, (), endpoints=[url])
    found = [Refusal("endpoint", says) for says in endpoints(case)]
    return CheckedRelease(url, None, found, [f"compared with {evidence.path}"])


def _statement(evidence: ReportFiles, keys: Sequence[PublicKey]) -> tuple[Statement, ReleaseRecord]:
    """The newest release that one of the keys has signed. Errors: `CoterieError`: why there is none."""
    found, others = evidence.statements(keys, RELEASE)
    if not found:
        signers = key_words(key.key_id for key in keys)
        raise CoterieError(f"no release is signed by {signers}; {others}")
    schema = found[-1].predicate.get("schema_name")
    if schema != RELEASE_SCHEMA:
        raise CoterieError(f"{CLAIMS}: a release of the schema {schema!r}; {RELEASE_SCHEMA} is read")
    return found[-1], ReleaseRecord.from_dict(found[-1].predicate, CLAIMS)


def _tree(folder: Path, found: list[Refusal]) -> WeightTree | None:
    try:
        return WeightTree.from_dict(read_json(folder / TREE, error=CoterieError), str(folder / TREE))
    except CoterieError as error:
        found.append(Refusal("file", str(error)))
        return None


def _files(checkpoint: Checkpoint, statement: Statement, record: ReleaseRecord) -> Iterator[str]:
    """Files that are not those that were signed."""
    here = released_files(checkpoint.path)
    signed = {name: digest for name, digest in statement.subjects.items() if name != TENSORS}
    for name in sorted({*here, *signed}):
        if name not in here:
            yield f"{name} is missing"
        elif name not in signed:
            yield f"{name} is not part of the release"
        elif here[name] != signed[name]:
            if name != MANIFEST or PULLED not in checkpoint.manifest:
                yield f"{name} was changed after the release was signed"
            elif facts_digest(checkpoint) != record.facts:
                yield f"{name} says other things of the model than when the release was signed"


def _prose(folder: Path) -> dict[str, str]:
    file = folder / ABOUT
    return {ABOUT: file.read_text(encoding="utf-8", errors="replace")} if file.is_file() else {}


def _card(folder: Path, case: Case, record: ReleaseRecord, key: PublicKey) -> Iterator[str]:
    """Where the card says what the report does not."""
    file = folder / CARD
    if not file.is_file():
        yield f"{CARD} is missing"
        return
    text = file.read_text(encoding="utf-8", errors="replace")
    expected = render_card(card_facts(record, case, key, _prose(folder).get(ABOUT, "")))
    if text == expected:
        return
    printed = set(re.findall(r"(?<![\w.])\d+(?:[.,]\d+)*(?:\s*%)?", expected))
    strays = stray_numbers(text, case.evidence.report, printed)
    for stray in strays:
        yield f"{CARD} {stray}, which the report does not hold"
    here = importlib.metadata.version("coterie")
    if not strays and (rendered_by(text) in (None, here) or len(text) == 0):
        yield f"{CARD} is not what the report is rendered to"


def _notes(evidence: ReportFiles, keys: Sequence[PublicKey], record: ReleaseRecord | None) -> Iterator[str]:
    known = {key.key_id for key in keys}
    for envelope in evidence.claims:
        signers = set(signers_of(envelope))
        if not signers & known:
            yield f"a statement of the key {', '.join(map(short, sorted(signers)))} was not checked"
            continue
        try:
            statement = verify_statement(envelope, keys)
        except CoterieError:
            continue
        if statement.predicate_type == REPRODUCED:
            yield f"reproduced by the key {short(statement.signers[0])}"
    if record is not None and record.replayed is not None:
        done = record.replayed
        yield f"the publisher ran {done.items} items again from these files; {done.differ} differed"
    for waiver in (*evidence.report.waivers, *(record.waivers if record is not None else ())):
        yield f"waived: {waiver.flag} ({waiver.reason})"
