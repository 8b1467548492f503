"""`coterie patch`: apply expert patches to their base, inspect them, compare them and take them off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.options import Json, Out
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.adapters.patch_tools import PatchDifference, PatchFacts

PatchPath = Annotated[str, typer.Argument(help="The directory of an expert patch.")]


def apply(
    base: Annotated[str, typer.Argument(help="The model that the patches were made for.")],
    patches: Annotated[list[str], typer.Argument(help="One or more patches of that base.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Write a base with its patches as a whole checkpoint. Another base is refused."""
    from coterie.adapters.patch_tools import apply_to_checkpoint

    replaced = apply_to_checkpoint(base, patches, out)
    facts = {"out": out, "patches": len(patches), "replaced_parameters": replaced}
    answer(facts, as_json, _words(facts))


def remove(
    model: Annotated[str, typer.Argument(help="A model that a patch was applied to.")],
    patch: PatchPath,
    base: Annotated[str, typer.Argument(help="The base, which has the original values.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Take a patch off a model it was written into.

    Refused where the model no longer holds the patch's values.
    """
    from coterie.adapters.patch_tools import remove_from_checkpoint

    facts = {"out": out, "restored_parameters": remove_from_checkpoint(model, patch, base, out)}
    answer(facts, as_json, _words(facts))


def _words(facts: Mapping[str, Any]) -> Iterator[str]:
    return (f"{key.replace('_', ' ')}: {value}" for key, value in facts.items())


def inspect(patch: PatchPath, as_json: Json = False) -> None:
    """Show a patch's experts by layer, parameters, bytes, and the base it belongs to."""
    from coterie.adapters.patch_tools import inspect_patch

    facts = inspect_patch(patch)
    answer(facts.to_dict(), as_json, _inspected(facts, patch))


def _inspected(facts: PatchFacts, path: str) -> Iterator[str]:
    yield f"{path}: {sum(map(len, facts.experts.values()))} experts of {facts.base} ({facts.family})"
    for layer, chosen in facts.experts.items():
        yield f"  layer {layer}: experts {', '.join(map(str, chosen))}"
    if facts.whole:
        yield f"  and {len(facts.whole)} tensors that are not routed experts"
    yield f"parameters   {facts.parameters:,}, {facts.bytes:,} bytes"
    yield f"base         weights hash to {facts.base_sha256[:12]}"


def diff(
    a: PatchPath,
    b: Annotated[str, typer.Argument(help="Another patch of the same base, or the base itself.")],
    as_json: Json = False,
) -> None:
    """Compare two patches expert by expert, or show how far a patch moves each expert of its base."""
    from coterie.adapters.patch_tools import diff_patches

    found = diff_patches(a, b)
    answer(found.to_dict(), as_json, _differences(found))


def _differences(found: PatchDifference) -> Iterator[str]:
    for words, places in (("only in a", found.only_in_a), ("only in b", found.only_in_b)):
        if places:
            yield f"{words}: {', '.join(places)}"
    for place, distance in found.distance.items():
        yield f"  {place:<40} {distance:.4f}"
    yield f"relative distance of all values: {found.total:.4f}"
