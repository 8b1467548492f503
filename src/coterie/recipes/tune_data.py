"""The data of a tuning run: examples to units, held-out units, rows, and what must not be forgotten."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coterie.config import DataError
from coterie.config.tune import TuneConfig
from coterie.data import primer
from coterie.data.examples import read_all
from coterie.data.rows import Row
from coterie.data.sources import read_sources
from coterie.data.tokenised import Unit, UnitSet, pack, tokenise_all
from coterie.evaluate.bits import HeldoutDocument
from coterie.text.tokenizer import Tokenizer

RETENTION_TOKENS = 8192
STEP_TOKENS = 4096
_SHOWN = 5
_RETENTION_SEED = 20_011  # of the primer's texts that are asked again; no quickstart trains on them


@dataclass(frozen=True)
class TuneData:
    """Rows to train on and rows to judge by; `objective` as chosen by the data's kind where it was `auto`."""

    rows: list[Row]
    held_out: list[Row]
    units: list[Unit]
    held_out_units: list[Unit]
    row_length: int
    batch_rows: int
    steps: int
    objective: str
    skipped: list[str]
    format: str

    def summary(self) -> str:
        """One line for people."""
        tokens = sum(len(piece.ids) for unit in self.units for piece in unit.pieces)
        learnt = sum(piece.num_learnt for unit in self.units for piece in unit.pieces)
        filled = sum(unit.positions for unit in self.units) / (len(self.rows) * self.row_length)
        return (
            f"{len(self.units):,} examples ({self.format}), {len(self.held_out_units):,} held out; {tokens:,} tokens, "
            f"{learnt / max(1, tokens):.0%} learnt; {len(self.rows):,} rows of {self.row_length}, {filled:.0%} full; "
            f"{self.steps:,} steps of {self.batch_rows} rows"
        )


def prepare_examples(config: TuneConfig, tokenizer: Tokenizer, max_positions: int) -> TuneData:
    """Read, tokenise, split and pack. Errors: `DataError` for examples that cannot be used, unless they are
    skipped.
    """
    limit = min(config.row_length or 4096, max_positions)
    found = read_all(config.data)
    units = tokenise_all(found, tokenizer, limit)
    skipped = _settle(units, config, found.format)
    objective = _objective(config, units, found.format)
    if isinstance(config.eval, str):
        other = tokenise_all(read_all([config.eval]), tokenizer, limit)
        _settle(other, config, found.format)
        train, held_out = units.units, other.units
    else:
        train, held_out = split(units.units, config.eval)
    longest = max(unit.positions for unit in [*train, *held_out])
    row_length = limit if config.row_length else min(limit, max(32, -(-longest // 16) * 16))
    rows = pack(train, row_length, tokenizer.eos_id, units.judged, config.packing)
    batch_rows = config.batch_rows or max(1, min(STEP_TOKENS // row_length, len(rows) // 8))
    step_rows = batch_rows * config.accumulate
    steps = config.steps or max(1, round(config.epochs * len(rows) / step_rows))
    judge_rows = pack(held_out, row_length, tokenizer.eos_id, units.judged) if held_out else []
    return TuneData(
        rows, judge_rows, train, held_out, row_length, batch_rows, steps, objective, skipped, found.format
    )


def split(units: Sequence[Unit], share: float) -> tuple[list[Unit], list[Unit]]:
    """(train, held out) by content, so that equal examples stay on one side. Of fewer than ten none is held
    out.
    """
    if share == 0 or len(units) < 10:
        return list(units), []
    held: list[Unit] = []
    kept: list[Unit] = []
    for unit in units:
        content = np.asarray(
            [token for piece in unit.pieces for token in piece.ids], dtype=np.int64
        ).tobytes()
        number = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") / 2.0**64
        (held if number < share else kept).append(unit)
    if not held:
        held.append(kept.pop())
    if not kept:
        raise DataError("every example fell to the held-out side; give more examples or a smaller 'eval'")
    return kept, held


def _settle(units: UnitSet, config: TuneConfig, kind: str) -> list[str]:
    """The problems as lines; they stop the run unless `on_bad` is skip."""
    lines = [str(problem) for problem in units.problems]
    if lines and config.on_bad == "stop":
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise DataError(
            f"{lines[0]}{more}; mend them, or set on_bad=skip; `coterie data lint --model` lists all"
        )
    if not units.units:
        first = f": {lines[0]}" if lines else ""
        raise DataError(f"{', '.join(config.data)}: no example of {kind} can be used{first}")
    for line in lines[:_SHOWN]:
        print(f"skipped: {line}", file=sys.stderr)
    if len(lines) > _SHOWN:
        print(f"skipped: {len(lines) - _SHOWN} more; report.json lists them", file=sys.stderr)
    return lines


def _objective(config: TuneConfig, units: UnitSet, kind: str) -> str:
    if config.objective != "auto":
        wanted = {"kto": "labelled", "sft": None, "pretrain": None}.get(config.objective, "preference")
        if (wanted or kind) != kind or (wanted is None and units.judged):
            need = {
                "labelled": "labels (prompt, completion, label)",
                "preference": "preferences (chosen, rejected)",
            }
            raise DataError(
                f"objective {config.objective} needs {need.get(wanted or '', 'examples to imitate')}, "
                f"and {', '.join(config.data)} holds the kind '{kind}'"
            )
        return config.objective
    if not units.judged:
        return "pretrain" if kind == "text" else "sft"
    return "kto" if kind == "labelled" else "dpo"


def retention_documents(source: str, tokenizer: Tokenizer) -> list[HeldoutDocument]:
    """Texts whose bits per byte are measured before and after: the primer's, a source of text, or none."""
    if source == "none":
        return []
    if source == "primer":
        pairs = [(document.slice, document.text) for document in primer.documents(_RETENTION_SEED, 60_000)]
    else:
        if not Path(source).expanduser().exists() and not source.startswith("hf://"):
            raise DataError(
                f"retention {source}: no such file or directory; give a text source, primer or none"
            )
        pairs = [(document.slice, document.text) for document in read_sources([source], max_bytes=200_000)]
    documents = []
    for name, text in pairs:
        ids = np.asarray([tokenizer.eos_id, *tokenizer.encode(text)], dtype=np.int64)
        documents.append(
            HeldoutDocument(name, ids[:1024], len(tokenizer.decode(ids[1:1024].tolist()).encode()))
        )
    total = sum(len(document.ids) for document in documents)
    return documents[:: max(1, -(-total // RETENTION_TOKENS))]
