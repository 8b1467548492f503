"""`coterie train`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Json
from coterie.cli.output import answer_run

if TYPE_CHECKING:
    from coterie.recipes.pretrain import TrainResult


def train(
    config: Annotated[str, typer.Argument(help="A YAML file with the settings of the run (see configs/).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, for example optimiser.lr=0.001")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model, dense or mixture of experts. The same command resumes a stopped run."""
    from coterie.config.run import TrainConfig
    from coterie.recipes.pretrain import pretrain

    changes = overrides or []
    settings = TrainConfig.from_yaml(config, changes)
    result = pretrain(settings, resume_hint=" ".join(["coterie train", config, *changes]))
    answer_run(result, as_json, _trained(result))


def _trained(result: TrainResult) -> Iterator[str]:
    if result.model is not None:
        bits = f", {result.bits_per_byte:.4f} bits per byte on held-out text" if result.bits_per_byte else ""
        yield f"trained {result.tokens:,} tokens in {result.seconds:.0f} s{bits}"
        yield (
            f"the model is in {result.model}; to try it: coterie generate {result.model} 'Once upon a time'"
        )
        if result.students is not None:
            yield from result.students.lines()
        if result.report is not None:
            yield from (f"warning: {line}" for line in result.report.warnings)
