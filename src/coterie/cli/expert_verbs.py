"""Verbs on experts: which ones matter, and patches that replace some of them. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

import typer

from coterie.cli.options import Json

Out = Annotated[str, typer.Option("--out", "-o", help="Where to write.")]
PatchPath = Annotated[str, typer.Argument(help="The directory of an expert patch.")]

patch_app = typer.Typer(
    help="Expert patches: chosen experts trained in full, kept apart from their base.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@patch_app.command("apply", short_help="Write a base with its patches as a whole checkpoint.")
def patch_apply(
    base: Annotated[str, typer.Argument(help="The model that the patches were made for.")],
    patches: Annotated[list[str], typer.Argument(help="One or more patches of that base.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Write a base with its patches as a whole checkpoint. Another base is refused."""
    from coterie.cli.patches import apply as run

    run(base, patches, out, as_json)


@patch_app.command("inspect", short_help="What a patch holds.")
def patch_inspect(patch: PatchPath, as_json: Json = False) -> None:
    """What a patch holds: experts by layer, parameters, bytes, and the base it belongs to."""
    from coterie.cli.patches import inspect as run

    run(patch, as_json)


@patch_app.command("diff", short_help="Compare two patches, or a patch with its base.")
def patch_diff(
    a: PatchPath,
    b: Annotated[str, typer.Argument(help="Another patch of the same base, or the base itself.")],
    as_json: Json = False,
) -> None:
    """Compare two patches expert by expert, or say how far a patch moves each expert of its base."""
    from coterie.cli.patches import diff as run

    run(a, b, as_json)


@patch_app.command("remove", short_help="Take a patch off a model it was written into.")
def patch_remove(
    model: Annotated[str, typer.Argument(help="A model that a patch was applied to.")],
    patch: PatchPath,
    base: Annotated[str, typer.Argument(help="The base, which has the original values.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Take a patch off a model it was written into; refused where the model no longer holds the patch's values."""
    from coterie.cli.patches import remove as run

    run(model, patch, base, out, as_json)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.add_typer(patch_app, name="patch")
