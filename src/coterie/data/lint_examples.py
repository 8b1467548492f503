"""Lint of tuning examples before any training: every fault, and which tokens would be learnt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coterie.config.errors import DataError
from coterie.data.examples import ExampleSet, portion, read_all
from coterie.data.findings import examine
from coterie.data.readers import kind_of
from coterie.data.records import EMBEDDED, RECORDS, Problem, read_records, walk
from coterie.data.tokenised import TokenExample, TokenSequence, pack, tokenise_all
from coterie.text.tokenizer import Tokenizer

_GREEN, _DIM, _PLAIN = "\033[32m", "\033[2m", "\033[0m"


@dataclass(frozen=True)
class TextRun:
    """Neighbouring tokens of a sequence that are all learnt or all not: their text and number."""

    text: str
    tokens: int
    learnt: bool


@dataclass(frozen=True)
class Preview:
    """One sequence of an example as runs of text, with the example's file and line."""

    origin: str
    runs: tuple[TextRun, ...]


@dataclass
class ExamplesReport:
    """What a source of examples holds. Fields that need a tokenizer are None without one.

    `tokens`: lengths of the sequences at the percentiles 0, 50, 90, 99 and 100. `filled`: share of the
    positions of packed rows that are used. `learnt`: share of tokens that are learnt. `warnings`: what may be
    wrong, where training goes on. `notes`: remarks that are not faults.
    """

    format: str
    examples: int
    problems: list[Problem]
    notes: list[str]
    warnings: list[Problem] = field(default_factory=list)
    sequences: int | None = None
    tokens: dict[str, int] | None = None
    rows: int | None = None
    row_length: int | None = None
    filled: float | None = None
    learnt: float | None = None
    preview: list[Preview] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def to_text(self, colour: bool = False) -> str:
        """Preview, problems and counts for people; learnt tokens in colour, or in brackets."""
        lines = [line for shown in self.preview for line in (shown.origin, _painted(shown.runs, colour), "")]
        lines += [*map(str, self.problems), *map(str, self.warnings), *self.notes]
        if self.tokens is not None:
            spread = ", ".join(f"{name} {size:,}" for name, size in self.tokens.items())
            lines.append(f"tokens: {spread}; {self.learnt or 0:.1%} are learnt")
            lines.append(f"packed: {self.rows:,} rows of {self.row_length:,}, {self.filled or 0:.1%} full")
        lines.append(
            f"{self.examples:,} examples ({self.format or 'no known format'}), "
            f"{len(self.problems):,} problems"
            + (f", {count:,} warnings" if (count := len(self.warnings)) else "")
        )
        return "\n".join(lines)


def holds_examples(source: str) -> bool:
    """Whether a source holds tuning examples rather than plain text, judged by its first readable record."""
    name = portion(source)[0]
    if name == "-" or name in EMBEDDED:
        return True
    path = Path(name).expanduser()
    files = [path] if path.is_file() else []
    try:
        if path.is_dir():
            files = list(walk(path, Counter()))
        if not files or any(file.suffix not in RECORDS for file in files):
            return False
        for _, record in read_records(str(path)):
            if not isinstance(record, Problem):
                return kind_of(record) != "text"
    except DataError:
        pass
    return False


def lint_examples(
    sources: Sequence[str], tokenizer: Tokenizer | None = None, row_length: int = 4096, show: int = 0
) -> ExamplesReport:
    """Read every example; with a tokenizer also tokenise it, preview the first `show`, check tool calls.

    Errors: `DataError` for sources that cannot be read or combined. Faults of examples are in the report.
    """
    found = read_all(sources)
    notes = [*found.notes(), *_repeats(found)]
    report = ExamplesReport(found.format, len(found.examples), list(found.problems), notes, found.warnings())
    if tokenizer is None:
        report.notes.append("note: tokens, what is learnt and the template are checked with --model")
        return report
    result = tokenise_all(found, tokenizer, row_length)
    findings = examine(found, result, tokenizer)
    report.problems = [*result.problems, *findings.problems]
    report.problems.sort(key=lambda problem: (problem.path, problem.line))
    report.warnings += findings.warnings()
    sequences = [sequence for example in result.examples for sequence in example.sequences]
    if not sequences:
        return report
    rows = pack(result.examples, row_length, tokenizer.eos_id, result.judged)
    sizes = np.asarray([len(sequence.ids) for sequence in sequences])
    report.sequences = len(sequences)
    names = ("shortest", "median", "90 %", "99 %", "longest")
    spread = np.percentile(sizes, [0, 50, 90, 99, 100], method="higher")
    report.tokens = {name: int(size) for name, size in zip(names, spread, strict=True)}
    report.rows, report.row_length = len(rows), row_length
    report.filled = sum(example.positions for example in result.examples) / (len(rows) * row_length)
    report.learnt = result.num_learnt / result.num_tokens
    report.preview = [
        _preview(example, sequence, tokenizer)
        for example in result.examples[:show]
        for sequence in example.sequences
    ]
    return report


def _repeats(found: ExampleSet) -> Iterator[str]:
    """Equal examples. They are counted but are not a fault: a mixture may repeat examples on purpose."""
    first: dict[str, str] = {}
    again = []
    for example in found.examples:
        content = repr([value for name, value in vars(example).items() if name != "origin"])
        content = content.replace(repr(example.origin), "")
        where = str(example.origin)
        before = first.setdefault(content, where)
        if before != where:
            again.append(f"{where} repeats {before}")
    if again:
        yield f"note: repeated examples: {len(again):,}; the first: {again[0]}"


def _preview(example: TokenExample, sequence: TokenSequence, tokenizer: Tokenizer) -> Preview:
    """The text of a sequence in runs that are learnt or not."""
    runs: list[tuple[bool, list[int]]] = []
    for at, (token, learnt) in enumerate(zip(sequence.ids, sequence.learnt, strict=True)):
        marked = learnt and at > 0  # nothing predicts the first token
        if not runs or runs[-1][0] != marked:
            runs.append((marked, []))
        runs[-1][1].append(token)
    shown = tuple(TextRun(tokenizer.decode(ids), len(ids), marked) for marked, ids in runs)
    return Preview(str(example.origin), shown)


def _painted(runs: Sequence[TextRun], colour: bool) -> str:
    if colour:
        return "".join(f"{_GREEN if run.learnt else _DIM}{run.text}{_PLAIN}" for run in runs)
    return "".join(f"[[{run.text}]]" if run.learnt else run.text for run in runs)
