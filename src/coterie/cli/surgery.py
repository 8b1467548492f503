"""`coterie surgery ...`: each operation declares its own options here and gets those that all share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from coterie.cli.options import Json, Model
from coterie.cli.output import answer
from coterie.cli.settings_options import with_parameters

if TYPE_CHECKING:
    from coterie.surgery.receipt import SurgeryReceipt

OPERATION = "This operation"
HEALING = "Healing (training afterwards)"
Keep = Annotated[float, typer.Option(help="Share of each layer's experts that stays, rounded up.")]


def _shared(
    model: Model,
    out: Annotated[str, typer.Option("--out", "-o", help="Where the result is written.")],
    data: Annotated[
        list[str] | None, typer.Option(help="Text to analyse and to measure on [default: primer].")
    ] = None,
    heal: Annotated[
        list[str] | None, typer.Option(help="Text to train on afterwards.", rich_help_panel=HEALING)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of healing [default: 100 with --heal].", min=1, rich_help_panel=HEALING),
    ] = None,
    lr: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=HEALING)] = 3e-4,
    train: Annotated[
        str, typer.Option(help="What is trained: all, router or ffn.", rich_help_panel=HEALING)
    ] = "all",
    distil: Annotated[
        bool,
        typer.Option(help="Train towards the original model, or on the text alone.", rich_help_panel=HEALING),
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    as_json: Json = False,
) -> None:
    """The parameters of every operation; never called."""


def operation(verb: Callable[..., None]) -> Callable[..., None]:
    """The command of an operation: its own options between the model and the shared ones.

    The function under the decorator only declares options and help. The command collects what was given and
    runs the operation of that name.
    """
    shared = list(inspect.signature(_shared, eval_str=True).parameters.values())
    own = list(inspect.signature(verb, eval_str=True).parameters.values())
    names = {parameter.name for parameter in shared}
    for parameter in own:
        get_args(parameter.annotation)[1].rich_help_panel = OPERATION

    @functools.wraps(verb)
    def run(**given: Any) -> None:
        settings = {name: value for name, value in given.items() if name not in names}
        if verb.__name__ in ("upcycle", "prune"):
            settings["seed"] = given["seed"]
        _operate(verb.__name__.replace("_", "-"), settings, {name: given[name] for name in names})

    return with_parameters(run, [shared[0], *own, *shared[1:]])


def _operate(kind: str, settings: Mapping[str, Any], common: Mapping[str, Any]) -> None:
    from coterie.recipes.surgery import Operation, operate
    from coterie.recipes.surgery_healing import Healing

    healing = None
    if common["heal"] or common["steps"] is not None:
        healing = Healing(common["steps"] or 100, common["lr"], common["train"], seed=common["seed"])
    operation = Operation(
        kind,
        settings,
        data=tuple(common["data"] or ("primer",)),
        heal_data=tuple(common["heal"] or ()),
        healing=healing,
        distil=common["distil"],
    )
    receipt = operate(common["model"], common["out"], operation)
    answer(receipt.to_dict(), common["as_json"], _receipt(receipt, common["out"]))


def _receipt(receipt: SurgeryReceipt, out: str) -> Iterator[str]:
    from coterie.recipes.surgery import RECEIPT
    from coterie.report.words import count, size

    before, after = receipt.parameters.before, receipt.parameters.after
    yield f"{receipt.operation}: {receipt.source} -> {out}"
    yield (
        f"parameters   total {count(before['total'])} -> {count(after['total'])}, "
        f"active {count(before['active_all'])} -> {count(after['active_all'])}"
    )
    yield f"memory       {size(receipt.memory.before)} -> {size(receipt.memory.after)} in bfloat16"
    for name, found in receipt.function.items():
        top1 = "" if found.top1 is None else f", same best token {found.top1:.1%}"
        yield (
            f"function     {name.replace('_', ' ')}: log-probabilities differ by {found.mean_logprob:.2g} "
            f"on average, {found.max_logprob:.2g} at most{top1}"
        )
    if receipt.perplexity.get("before") is not None:
        stages = ((stage, receipt.perplexity.get(stage)) for stage in ("before", "after", "healed"))
        path = " -> ".join(f"{value:.4g} ({stage})" for stage, value in stages if value is not None)
        yield f"perplexity   {path} on {', '.join(receipt.perplexity_data)}"
    yield from (f"lost         {what}" for what in receipt.lost)
    yield f"loads in     coterie (read back), transformers as {receipt.loads_in['transformers']}"
    yield f"receipt      {out}/{RECEIPT}"


@operation
def upcycle(
    num_experts: Annotated[int, typer.Option("--experts", help="Experts per layer.", min=1)] = 8,
    top_k: Annotated[int, typer.Option(help="Experts that a token chooses.", min=1)] = 2,
    split: Annotated[
        int, typer.Option(help="Cut the feed-forward into this many parts, one expert each.", min=1)
    ] = 1,
    variation: Annotated[str, typer.Option(help="copy (the same function), noise or drop.")] = "copy",
    amount: Annotated[float | None, typer.Option(help="Size of noise (0.05) or share dropped (0.5).")] = None,
) -> None:
    """Make a mixture of experts from a dense model; with copies it starts as the same function."""


@operation
def prune(
    keep: Keep = 0.75,
    method: Annotated[str, typer.Option(help="reap, freq or random.")] = "reap",
) -> None:
    """Remove the experts that matter least for the text."""


@operation
def merge_experts(keep: Keep = 0.75) -> None:
    """Merge experts that respond alike to the text, each weighted by how often it is chosen."""


@operation
def densify(
    width: Annotated[
        int | None, typer.Option(help="Inner units per layer [default: the units that a token uses].")
    ] = None,
) -> None:
    """Make a dense model from the units of a mixture of experts that contribute most; heal it afterwards."""


@operation
def add_expert(
    count: Annotated[int, typer.Option(help="How many, in every layer.", min=1)] = 1,
    source: Annotated[int, typer.Option(help="The expert that they start as a copy of.", min=0)] = 0,
) -> None:
    """Add experts that change nothing until they are trained."""


@operation
def swap_expert(
    other: Annotated[str, typer.Option(help="The model to take the expert from.")],
    layer: Annotated[int, typer.Option(min=0, help="Layer of the expert to replace.")],
    expert: Annotated[int, typer.Option(min=0, help="The expert to replace.")],
    other_layer: Annotated[
        int | None, typer.Option(help="Layer in the other model [default: the same].")
    ] = None,
    other_expert: Annotated[
        int | None, typer.Option(help="Expert in the other model [default: the same].")
    ] = None,
    with_router: Annotated[bool, typer.Option("--with-router", help="Take its router row too.")] = False,
) -> None:
    """Replace an expert by one of another model of the same shape."""
