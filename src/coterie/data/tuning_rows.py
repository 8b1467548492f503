"""The data of a tuning run: examples are read, tokenised, split and packed into rows.

    sources -> read_all -> tokenise_all -> split_examples -> pack -> rows to train on, rows to evaluate on

The recipe of `coterie tune` gets the rows and knows nothing of files, formats or packing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from coterie.config.errors import DataError
from coterie.config.tune import TuneConfig
from coterie.data.examples import ExampleSet, read_all
from coterie.data.findings import examine
from coterie.data.heldout import measured_tokens, spread
from coterie.data.rows import Row
from coterie.data.split import split_examples
from coterie.data.tokenised import (
    TokenExample,
    TokenExampleSet,
    count_learnt,
    count_tokens,
    pack,
    tokenise_all,
)
from coterie.text.tokenizer import Tokenizer

MAX_ROW_LENGTH = 4096  # tokens, if neither the settings nor the model ask for less
STEP_TOKENS = 4096
_SHOWN = 5
ExampleKind = Literal["imitation", "preference", "labelled"]
_NEEDED: dict[ExampleKind, str] = {
    "imitation": "examples to imitate",
    "preference": "preferences (chosen, rejected)",
    "labelled": "labels (prompt, completion, label)",
}
_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class TuneData:
    """Rows to train on and rows to evaluate on, with the examples they were packed from.

    `held_out`: rows of the examples in `measured`, which are all of a file that `eval` names, else some of
    the held-out ones, of about `num_measured_tokens` tokens.
    `objective`: the one asked for, or the one that suits the data for `auto`. `skipped`: the problems of
    examples that were left out. `format`: of the first file. `warnings`: what `coterie data lint` warns of.
    """

    rows: list[Row]
    held_out: list[Row]
    examples: list[TokenExample]
    held_out_examples: list[TokenExample]
    measured: list[TokenExample]
    num_measured_tokens: int
    row_length: int
    batch_rows: int
    steps: int
    objective: str
    skipped: list[str]
    format: str
    warnings: list[str] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Tokens of all training examples."""
        return count_tokens(self.examples)

    def summary(self) -> str:
        """One line for people."""
        learnt = count_learnt(self.examples)
        filled = sum(example.positions for example in self.examples) / (len(self.rows) * self.row_length)
        num_held, num_measured = len(self.held_out_examples), len(self.measured)
        part = f" ({num_measured:,} of them measured)" if num_measured < num_held else ""
        return (
            f"{len(self.examples):,} examples ({self.format}), {num_held:,} held out{part}; "
            f"{self.num_tokens:,} tokens, {learnt / max(1, self.num_tokens):.0%} learnt; "
            f"{len(self.rows):,} rows of {self.row_length}, {filled:.0%} full; "
            f"{self.steps:,} steps of {self.batch_rows} rows"
        )


def prepare_examples(
    config: TuneConfig, tokenizer: Tokenizer, max_positions: int, needs: ExampleKind | None = None
) -> TuneData:
    """Read, tokenise, split and pack the examples of a run.

    `max_positions`: the longest row the model takes. `needs`: the kind of examples that the objective learns
    from; None if the data chooses the objective.
    Errors: `DataError` for sources that cannot be read, and for examples that cannot be used unless `on_bad`
    is `skip`.
    """
    limit = min(config.row_length or MAX_ROW_LENGTH, max_positions)
    found, tokenised, warnings = _read(config.data, tokenizer, limit, config)
    skipped = _settle(tokenised, config, found.format)
    objective = _objective(config, tokenised, found.format, needs)
    if isinstance(config.eval, str):
        _, other, more = _read([config.eval], tokenizer, limit, config)
        warnings += more
        _settle(other, config, found.format)
        train, held_out = tokenised.examples, other.examples
    else:
        train, held_out = split_examples(tokenised.examples, config.eval)
    _show("warning", warnings)
    longest = max(example.positions for example in [*train, *held_out])
    # Multiples of 16 keep matrix sizes even; 32 is the shortest row worth a step.
    row_length = limit if config.row_length else min(limit, max(32, -(-longest // 16) * 16))
    rows = pack(train, row_length, tokenizer.eos_id, tokenised.judged, config.packing)
    batch_rows = config.batch_rows or max(1, min(STEP_TOKENS // row_length, len(rows) // 8))
    step_rows = batch_rows * config.accumulate
    steps = config.steps or max(1, round(config.epochs * len(rows) / step_rows))
    budget = measured_tokens(round(count_tokens(train) * steps * step_rows / len(rows)))
    measured = held_out
    if not isinstance(config.eval, str):
        measured = spread(held_out, budget)
    return TuneData(
        rows,
        pack(measured, row_length, tokenizer.eos_id, tokenised.judged) if measured else [],
        train,
        held_out,
        measured,
        budget,
        row_length,
        batch_rows,
        steps,
        objective,
        skipped,
        found.format,
        warnings,
    )


def _read(
    sources: Sequence[str], tokenizer: Tokenizer, limit: int, config: TuneConfig
) -> tuple[ExampleSet, TokenExampleSet, list[str]]:
    """The examples, their tokens with everything that `coterie data lint` calls wrong, and its warnings."""
    found = read_all(sources)
    tokenised = tokenise_all(found, tokenizer, limit, config.control_tokens)
    findings = examine(found, tokenised, tokenizer, config.control_tokens)
    problems = [*tokenised.problems, *findings.problems]
    tokenised.problems = sorted(problems, key=lambda problem: (problem.path, problem.line))
    for line in found.notes():
        _log.info("%s", line)
    warnings = [*found.warnings(), *findings.warnings()]
    return found, tokenised, [f"{line.path}:{line.line}: {line.message}" for line in warnings]


def _show(kind: str, lines: Sequence[str]) -> None:
    """Log the first few lines, and how many more there are."""
    for line in lines[:_SHOWN]:
        _log.warning("%s: %s", kind, line)
    if len(lines) > _SHOWN:
        _log.warning("%s: %d more; report.json lists them", kind, len(lines) - _SHOWN)


def _settle(tokenised: TokenExampleSet, config: TuneConfig, kind: str) -> list[str]:
    """The problems as lines. They stop the run unless `on_bad` is skip."""
    lines = [str(problem) for problem in tokenised.problems]
    if lines and config.on_bad == "stop":
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise DataError(
            f"{lines[0]}{more}; correct them, or set on_bad=skip; `coterie data lint --model` lists all"
        )
    if not tokenised.examples:
        first = f": {lines[0]}" if lines else ""
        raise DataError(f"{', '.join(config.data)}: no example of {kind} can be used{first}")
    _show("skipped", lines)
    return lines


def _objective(config: TuneConfig, tokenised: TokenExampleSet, kind: str, needs: ExampleKind | None) -> str:
    if needs is None:
        if not tokenised.judged:
            return "pretrain" if kind == "text" else "sft"
        return "kto" if kind == "labelled" else "dpo"
    if needs != (kind if tokenised.judged else "imitation"):
        raise DataError(
            f"objective {config.objective} needs {_NEEDED[needs]}, "
            f"and {', '.join(config.data)} holds the kind '{kind}'"
        )
    return config.objective
