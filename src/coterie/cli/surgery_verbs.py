"""`coterie surgery ...`: each verb declares its own options here and gets those that all share.

Imports nothing heavy: `--help` stays fast.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from coterie.cli.options import Json, Model

surgery_app = typer.Typer(
    help="Change what a model is made of, with a receipt of what that did.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Keep = Annotated[float, typer.Option(help="Share of each layer's experts that stays, rounded up.")]


def _common(
    model: Model,
    out: Annotated[str, typer.Option("--out", "-o", help="Where the result is written.")],
    data: Annotated[
        list[str] | None, typer.Option(help="Text to look at and to measure on [default: primer].")
    ] = None,
    heal: Annotated[list[str] | None, typer.Option(help="Text to train on afterwards.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of healing [default: 100 with --heal].", min=1)
    ] = None,
    lr: Annotated[float, typer.Option(help="Learning rate of healing.")] = 3e-4,
    train: Annotated[str, typer.Option(help="What heals: all, router or ffn.")] = "all",
    distil: Annotated[bool, typer.Option(help="Heal towards the original, or on the text alone.")] = True,
    seed: Annotated[int, typer.Option(help="Of what is drawn at random.")] = 0,
    as_json: Json = False,
) -> None:
    """The options of every operation."""


def _operation(verb: Callable[..., None]) -> Callable[..., None]:
    """The command: the verb's options between the model and the shared options; runs `cli.surgery.run`."""
    shared = list(inspect.signature(_common, eval_str=True).parameters.values())
    own = list(inspect.signature(verb, eval_str=True).parameters.values())
    names = {parameter.name for parameter in shared}

    @functools.wraps(verb)
    def run(**given: Any) -> None:
        from coterie.cli.surgery import run as operate

        settings = {name: value for name, value in given.items() if name not in names}
        if verb.__name__ in ("upcycle", "prune"):
            settings["seed"] = given["seed"]
        operate(verb.__name__.replace("_", "-"), settings, {name: given[name] for name in names})

    parameters = [shared[0], *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *shared[1:]])]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def upcycle(
    num_experts: Annotated[int, typer.Option("--experts", help="Experts per layer.", min=1)] = 8,
    top_k: Annotated[int, typer.Option(help="Experts that a token chooses.", min=1)] = 2,
    split: Annotated[
        int, typer.Option(help="Cut the feed-forward into so many parts, an expert each.", min=1)
    ] = 1,
    variation: Annotated[str, typer.Option(help="copy (the same function), noise or drop.")] = "copy",
    amount: Annotated[float | None, typer.Option(help="Size of noise (0.05) or share dropped (0.5).")] = None,
) -> None:
    """Make a mixture of experts of a dense model; by copy it begins as the same function."""


def prune(
    keep: Keep = 0.75,
    method: Annotated[str, typer.Option(help="reap, freq or random.")] = "reap",
) -> None:
    """Take away the experts that matter least for the text."""


def merge_experts(keep: Keep = 0.75) -> None:
    """Join experts that say the same to the text, each counting as often as it is chosen."""


def densify(
    width: Annotated[
        int | None, typer.Option(help="Inner units per layer [default: as many as a token uses].")
    ] = None,
) -> None:
    """Make a dense model of a mixture of experts, begun from the units that contribute most; heal it
    afterwards.
    """


def add_expert(
    count: Annotated[int, typer.Option(help="How many, in every layer.", min=1)] = 1,
    source: Annotated[int, typer.Option(help="The expert that they begin as a copy of.", min=0)] = 0,
) -> None:
    """Add experts that do nothing until they are trained."""


def swap_expert(
    other: Annotated[str, typer.Option(help="The model that the expert is taken from.")],
    layer: Annotated[int, typer.Option(min=0, help="Layer of the expert that is replaced.")],
    expert: Annotated[int, typer.Option(min=0, help="The expert that is replaced.")],
    other_layer: Annotated[
        int | None, typer.Option(help="Layer in the other model [default: the same].")
    ] = None,
    other_expert: Annotated[
        int | None, typer.Option(help="Expert in the other model [default: the same].")
    ] = None,
    with_router: Annotated[
        bool, typer.Option("--with-router", help="Take its row in the router too.")
    ] = False,
) -> None:
    """Take an expert from another model of the same shape."""


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    for verb in (upcycle, prune, merge_experts, densify, add_expert, swap_expert):
        surgery_app.command(verb.__name__.replace("_", "-"))(_operation(verb))
    app.add_typer(surgery_app, name="surgery")
