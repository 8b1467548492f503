"""`coterie pool`: the problems of medium difficulty for a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Json, Model
from coterie.cli.output import answer
from coterie.cli.settings_options import with_options
from coterie.config.pool import PoolOptions

if TYPE_CHECKING:
    from coterie.reinforce.pool import PoolHeader


@with_options(PoolOptions)
def pool(
    model: Model,
    task: Annotated[str, typer.Option(help="A built-in task, gym:NAME, or a .py or .jsonl file of yours.")],
    settings: PoolOptions,
    out: Annotated[str, typer.Option("--out", "-o", help="The file to write.")] = "pool.jsonl",
    as_json: Json = False,
) -> None:
    """Find the problems that a model solves sometimes: those are worth training on.

    Replies are kept next to the file, so the same command goes on after an interruption. Other bounds or more
    problems cost only what is new. Train on the file with coterie train reinforce --pool.
    """
    from coterie.config.pool import PoolConfig
    from coterie.recipes.pool import make_pool

    given = {"model": model, "task": task, "out": out} | settings.to_dict()
    header = make_pool(PoolConfig.from_dict(given, "pool"))
    answer({"path": out} | header.to_dict(), as_json, _lines(header, out))


def _lines(header: PoolHeader, out: str) -> Iterator[str]:
    yield "level  problems  right    in the pool"
    for level in header.levels:
        yield f"{level.level:5}  {level.problems:8}  {level.share:5.1%}  {level.pooled:11}"
    tried = max(1, header.tried)
    yield "right replies  " + "  ".join(
        f"{right}: {count / tried:.0%}" for right, count in enumerate(header.shares)
    )
    yield "pass@k         " + "  ".join(f"{k}: {value:.1%}" for k, value in header.pass_at.items())
    yield f"{header.pooled} of {header.tried} problems are in {out}"
