"""What a student learns from and is measured on: text, or tuning examples, as rows of one length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coterie.config.data import DataConfig
from coterie.config.distill import DistillConfig
from coterie.config.errors import ConfigError
from coterie.config.tune import TuneConfig
from coterie.contamination.index import ContaminationIndex
from coterie.data.build import prepare
from coterie.data.indexed import index_examples
from coterie.data.rows import Row
from coterie.data.teacher_targets import rows_digest
from coterie.data.tuning_rows import prepare_examples
from coterie.evaluate.bits import DocumentScore
from coterie.evaluate.tuning import unit_scores
from coterie.nn.transformer import Transformer
from coterie.recipes.heldout import EVAL_TOKENS, evaluation_documents, heldout_scores
from coterie.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Lessons:
    """Rows to learn from, and how a model does on held-out ones.

    `watched` and `judged` measure a model: the first during training, the second at its ends. `measure`: what
    they measure, in words. `digest`: of all rows. `index`: what their text holds (`coterie.contamination`).
    """

    rows: Sequence[Row]
    row_length: int
    tokenizer: Tokenizer
    watched: Callable[[Transformer], list[DocumentScore]]
    judged: Callable[[Transformer], list[DocumentScore]]
    measure: str
    about: str
    digest: str
    index: Callable[[], ContaminationIndex]
    bytes_per_token: float | None = None


def lessons(config: DistillConfig, tokenizer: Tokenizer, home: Path, max_positions: int) -> Lessons:
    """The rows of a run, in the tokens of `tokenizer`.

    `home`: the tokenizer's directory. `max_positions`: of the student and the teacher.
    Errors: `ConfigError` for rows that are too long; `DataError` for what cannot be read.
    """
    found = (
        _text(config.data, config, home)
        if config.data is not None
        else _examples(config, tokenizer, max_positions)
    )
    if found.row_length > max_positions:
        raise ConfigError(
            f"rows of {found.row_length} tokens are longer than the {max_positions} positions of student and "
            "teacher; give a smaller data.row_length"
        )
    return found


def _text(data: DataConfig, config: DistillConfig, home: Path) -> Lessons:
    if data.tokenizer is not None and Path(data.tokenizer) != home:
        raise ConfigError("data.tokenizer: text is read with the models' own tokenizer; leave it out")
    prepared = prepare(
        data.model_copy(update={"tokenizer": str(home)}), config.data_dir or Path(config.out) / "data"
    )
    parts = [evaluation_documents(prepared, EVAL_TOKENS, part, cut=True) for part in ("search", "final")]
    total = prepared.card.total("train")
    return Lessons(
        rows=prepared.train_rows(),
        row_length=prepared.row_length,
        tokenizer=prepared.tokenizer,
        watched=lambda model: heldout_scores(model, prepared, parts[0]),
        judged=lambda model: heldout_scores(model, prepared, parts[1]),
        measure="bits per byte of held-out text",
        about=f"{total.documents:,} documents, {total.tokens:,} tokens",
        digest=rows_digest(prepared.train_rows()),
        index=lambda: prepared.index,
        bytes_per_token=prepared.card.bytes_per_token,
    )


def _examples(config: DistillConfig, tokenizer: Tokenizer, max_positions: int) -> Lessons:
    assert config.examples is not None
    settings = {
        "model": config.teacher,
        "data": config.examples,
        "row_length": config.row_length,
        "batch_rows": config.batch_rows,
        "accumulate": config.accumulate,
        "eval": config.eval,
    }
    tuning = TuneConfig.from_dict(
        {key: value for key, value in settings.items() if value is not None}, "distill"
    )
    data = prepare_examples(tuning, tokenizer, max_positions, "imitation")
    if not data.held_out:
        raise ConfigError("eval: leaves no example to measure on; give a larger share or a file")

    def score(model: Transformer) -> list[DocumentScore]:
        return unit_scores(model, data.held_out, model.embed.weight.device)

    return Lessons(
        rows=data.rows,
        row_length=data.row_length,
        tokenizer=tokenizer,
        watched=score,
        judged=score,
        measure="bits per token of held-out examples",
        about=f"{len(data.examples):,} examples ({data.format}), {data.num_tokens:,} tokens",
        digest=rows_digest(data.rows),
        index=lambda: index_examples(data.examples, data.rows, tokenizer, "distill"),
    )
