"""The ledger of looks: every scoring of a checkpoint on a test set, in a chain of hashes that only grows.

Each entry names the digest of the one before it, so an entry that is changed or taken out breaks the chain,
and a ledger that was cut lacks the heads that were published or that reports keep. It cannot prove that
nothing was scored outside it. The results behind an entry lie next to the ledger, one file for each, and the
entry holds their Merkle root.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from coterie.config import CoterieError, Settings
from coterie.config.files import read_json, write_text
from coterie.config.json_text import JsonError, parse_json_object
from coterie.config.system import user_state
from coterie.evidence.canonical import canonical, digest_bytes, digest_of, merkle_root
from coterie.evidence.lines import append_line, whole_lines
from coterie.evidence.statements import short
from coterie.results.evaluation import ItemRecord

START = digest_bytes(b"coterie.ledger/v1")  # what the first entry continues
Split = Literal["dev", "test", "sealed"]


def user_ledger() -> Path:
    """The ledger of this user, where none is named."""
    return user_state() / "looks.jsonl"


class LookOutcome(Settings):
    """What one item earned in a look, over its seeds. `digest`: of the item."""

    digest: str
    cluster: str
    score: float


class LedgerEntry(Settings):
    """One look: which weights, which items, how they were asked, and the root over what they earned.

    `tensor_digest`: root of the weights. `task_items_digest`: of the items in order. `prompt`: digest of how
    the items were asked. `score_commitment`: Merkle root over the outcomes. `time`: UTC. `prev`: digest of
    the entry before this one.
    """

    tensor_digest: str
    task: str
    task_items_digest: str
    split: Split
    prompt: str
    score_commitment: str
    time: str
    prev: str

    @property
    def digest(self) -> str:
        """What the next entry names."""
        return digest_of(self)


def outcomes_of(records: Iterable[ItemRecord]) -> list[LookOutcome]:
    """The outcomes of a task's records, one for each item in order; seeds are averaged, failures left out."""
    scores: dict[str, list[float]] = {}
    clusters: dict[str, str] = {}
    for record in records:
        if not record.failed:
            scores.setdefault(record.digest, []).append(record.score)
            clusters[record.digest] = record.cluster
    return [
        LookOutcome(digest=digest, cluster=clusters[digest], score=sum(values) / len(values))
        for digest, values in scores.items()
    ]


def commitment(outcomes: Iterable[LookOutcome]) -> str:
    """The Merkle root over outcomes in their order."""
    return merkle_root(canonical(outcome) for outcome in outcomes)


class Ledger:
    """The ledger in the file `path`; a file that is not there is an empty one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def results(self) -> Path:
        """The folder of the outcomes behind the entries."""
        return self.path.with_name(f"{self.path.name}.results")

    def record(
        self,
        tensor_digest: str,
        task: str,
        items_digest: str,
        prompt: str,
        outcomes: Sequence[LookOutcome],
        split: Split = "test",
    ) -> LedgerEntry:
        """Append a look, its outcomes first; safe for several processes at once.

        Errors: `CoterieError` where it cannot be written, or the last entry is damaged.
        """
        root = commitment(outcomes)
        self._keep(root, outcomes)
        made: list[LedgerEntry] = []

        def after(last: bytes) -> bytes:
            prev = self._entry(last, "the last entry").digest if last else START
            entry = LedgerEntry(
                tensor_digest=tensor_digest,
                task=task,
                task_items_digest=items_digest,
                split=split,
                prompt=prompt,
                score_commitment=root,
                time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                prev=prev,
            )
            made.append(entry)
            return canonical(entry)

        append_line(self.path, after)
        return made[0]

    def entries(self) -> list[LedgerEntry]:
        """All entries, the chain checked. Errors: `CoterieError` naming the first broken link."""
        if not self.path.exists():
            return []
        lines, _ = whole_lines(self.path)  # a line that was never finished is no entry
        entries: list[LedgerEntry] = []
        prev = START
        for number, line in enumerate(lines, 1):
            entry = self._entry(line, f"line {number}")
            if entry.prev != prev:
                before = f"line {number - 1}" if number > 1 else "the start"
                raise CoterieError(
                    f"{self.path}: line {number} does not continue {before}: one of the two was changed, or "
                    "an entry between them was taken out"
                )
            entries.append(entry)
            prev = entry.digest
        return entries

    def head(self) -> str:
        """The digest of the last entry; publish it, and the ledger can no longer be cut before it."""
        entries = self.entries()
        return entries[-1].digest if entries else START

    def check(self, heads: Iterable[str] = ()) -> list[LedgerEntry]:
        """The entries, if the chain and the results are whole and hold all `heads` that are known.

        Errors: `CoterieError`, one line: the first broken link, a head that is missing, or outcomes that are
        not those of their entry.
        """
        entries = self.entries()
        known = {START, *(entry.digest for entry in entries)}
        for head in heads:
            if head not in known:
                raise CoterieError(
                    f"{self.path}: was cut or written anew: it lacks the head {short(head)} that was known"
                )
        for number, entry in enumerate(entries, 1):
            try:
                self.outcomes(entry)
            except CoterieError as error:
                raise CoterieError(f"{self.path}: line {number}: {error}") from None
        return entries

    @property
    def torn(self) -> bool:
        """Whether the file ends in a line that was never finished; the next look removes it."""
        return self.path.exists() and whole_lines(self.path)[1]

    def outcomes(self, entry: LedgerEntry) -> list[LookOutcome]:
        """What the items earned in a look. Errors: `CoterieError` for results that are missing or others."""
        file = self._file(entry.score_commitment)
        data = read_json(file, "restore it from a copy", CoterieError)
        try:
            found = [LookOutcome.model_validate(one) for one in data["outcomes"]]
        except (KeyError, TypeError, ValidationError):
            raise CoterieError(f"{file}: holds no outcomes; restore it from a copy") from None
        if commitment(found) != entry.score_commitment:
            raise CoterieError(f"{file}: holds other outcomes than the ledger has; restore it from a copy")
        return found

    def _file(self, root: str) -> Path:
        return self.results / f"{root.removeprefix('sha256:')}.json"

    def _keep(self, root: str, outcomes: Sequence[LookOutcome]) -> None:
        file = self._file(root)
        if file.exists():
            return
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            rows = ",\n".join(json.dumps(outcome.to_dict()) for outcome in outcomes)
            write_text(file, f'{{"outcomes": [\n{rows}\n]}}\n')
        except OSError as error:
            raise CoterieError(f"{self.results}: cannot be written ({error.strerror})") from None

    def _entry(self, line: bytes, place: str) -> LedgerEntry:
        try:
            entry = LedgerEntry.model_validate(parse_json_object(line))
        except JsonError as error:
            raise CoterieError(f"{self.path}: {place} {error}") from None
        except ValidationError:
            raise CoterieError(f"{self.path}: {place} is not an entry of a ledger") from None
        if canonical(entry) != line:
            raise CoterieError(f"{self.path}: {place} is not in canonical form; it was edited")
        return entry
