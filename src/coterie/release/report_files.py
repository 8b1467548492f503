"""A signed evaluation report as a folder holds it: `report.json`, the records behind it, the statements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from coterie.config import ConfigError, CoterieError
from coterie.config.files import file_sha256, read_json
from coterie.config.json_text import JsonLimits
from coterie.evaluate.kept_records import read_records, records_root
from coterie.evaluate.scoring import average_of, item_means, mean
from coterie.evidence.canonical import digest_of
from coterie.evidence.claims import CLAIMS, read_claims
from coterie.evidence.keys import PublicKey
from coterie.evidence.statements import EVAL_REPORT, Envelope, Statement, short, signers_of, verify_statement
from coterie.results.evaluation import REPORT_SCHEMA, EvalReport, ItemRecord, TaskResult

REPORT = "report.json"
_LIMITS = JsonLimits(size=256 * 2**20, digits=40)
_ROUNDING = 1e-9  # of a mean that is computed again from scores written in full


@dataclass(frozen=True)
class ReportFiles:
    """`folder`: holds the report and what it names. `path`: of the report."""

    folder: Path
    path: Path
    report: EvalReport

    @staticmethod
    def read(path: str | Path) -> ReportFiles:
        """The report in a folder or file; samples and claims are read when they are asked for.

        Errors: `CoterieError`, one line, for a file that is missing, damaged or of another schema.
        """
        path = Path(path)
        file = path / REPORT if path.is_dir() else path
        data = read_json(file, "give the directory that coterie eval wrote", CoterieError, _LIMITS)
        schema = data.get("schema_name", data.get("schema"))
        if schema != REPORT_SCHEMA:
            found = f"is of the schema {schema!r}" if schema is not None else "names no schema"
            raise CoterieError(
                f"{file}: {found}, and {REPORT_SCHEMA} is needed; give the directory that coterie eval wrote"
            )
        return ReportFiles(file.parent, file, EvalReport.from_dict(data, str(file)))

    @cached_property
    def digest(self) -> str:
        """Digest of the report's canonical form."""
        return digest_of(self.report)

    @cached_property
    def claims(self) -> Sequence[Envelope]:
        """The statements next to the report, not checked. Errors: `CoterieError` for a damaged line."""
        file = self.folder / CLAIMS
        return read_claims(file) if file.exists() else []

    @cached_property
    def _read(self) -> dict[str, list[ItemRecord]]:
        return {}

    def records(self, task: TaskResult) -> list[ItemRecord]:
        """The records behind a score, read once. Errors: `CoterieError` for a file that is missing or cut."""
        if task.id in self._read:
            return self._read[task.id]
        name = Path(task.samples.path)  # not resolved: in the hub's cache, files are links
        if not task.samples.path or name.is_absolute() or ".." in name.parts:
            raise CoterieError(f"{self.path}: {task.id} names no file of records in the report's folder")
        self._read[task.id] = read_records(self.folder / name)
        return self._read[task.id]

    def statements(self, keys: Sequence[PublicKey], kind: str) -> tuple[list[Statement], str]:
        """The statements of one type that `keys` have signed, and who signed the others, in words.

        Errors: `CoterieError` for one that names a key of `keys` and whose signature does not hold.
        """
        known, found, others = {key.key_id for key in keys}, [], set[str]()
        for number, envelope in enumerate(self.claims, 1):
            signers = set(signers_of(envelope))
            others |= signers - known
            if signers & known:
                found.append(verify_statement(envelope, keys, f"{self.folder / CLAIMS}: line {number}"))
        words = (
            f"{CLAIMS} holds statements of {key_words(others)}"
            if others
            else f"{CLAIMS} holds none by others"
        )
        return [one for one in found if one.predicate_type == kind], words

    def statement(self, keys: Sequence[PublicKey]) -> Statement:
        """The statement by one of `keys` that says this report. Errors: `CoterieError`: why there is none."""
        found, others = self.statements(keys, EVAL_REPORT)
        for one in found:
            if self._says(one):
                return one
        signers = key_words(key.key_id for key in keys)
        if found:
            raise CoterieError(f"{self.path}: was changed after {signers} signed it")
        raise CoterieError(f"{self.path}: is not signed by {signers}; {others}")

    def _says(self, statement: Statement) -> bool:
        """Whether a statement is about this report, byte for byte where it names the file."""
        named = statement.subjects.get(REPORT)
        if named is not None and named not in (self.digest, f"sha256:{file_sha256(self.path)}"):
            return False
        try:
            return digest_of(EvalReport.from_dict(statement.predicate)) == self.digest
        except CoterieError:
            return named is not None

    def checked_records(self) -> dict[str, list[ItemRecord]]:
        """The records by task. Errors: `ConfigError`, one line: the first of `problems`."""
        for problem in self.problems():
            raise ConfigError(f"{self.path}: {problem}")
        return dict(self._read)

    def problems(self) -> Iterator[str]:
        """Where scores are not what their records say, one line each."""
        for task in self.report.tasks:
            try:
                yield from self._compared(task, self.records(task))
            except CoterieError as error:
                yield str(error)
        claimed = self.report.average
        if claimed is not None and len(self._read) == len(self.report.tasks):
            again = average_of(self.report.tasks, self._read)
            if again is None or abs(again.value - claimed.value) > _ROUNDING:
                yield f"the report's average is {claimed.value:.4f}, which its tasks do not give"

    def _compared(self, task: TaskResult, records: Sequence[ItemRecord]) -> Iterator[str]:
        where = f"{task.id}: {task.samples.path}"
        if len(records) != task.samples.rows:
            yield f"{where} holds {len(records):,} records, and the report says {task.samples.rows:,}"
        elif records_root(records) != task.samples.merkle_root:
            yield f"{where} holds other records than the report was made of"
        means: Mapping[str, float] = item_means(records)
        if not means:
            yield f"{where} holds no record with a score"
            return
        found = mean(list(means.values()))
        if task.mode != "text" and abs(found - task.score.value) > _ROUNDING * max(1.0, abs(found)):
            yield f"{task.id}: the report says {task.score.value:.4f}, and its records give {found:.4f}"
        if len(means) != task.n:
            yield f"{task.id}: the report counts {task.n:,} items, and its records have {len(means):,}"


def key_words(keys: Iterable[str]) -> str:
    """Keys by the beginning of their digests, for people."""
    listed = sorted(map(short, keys))
    return f"the key{'s' * (len(listed) > 1)} {', '.join(listed)}" if listed else "nobody"
