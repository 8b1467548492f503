"""Verbs on experts: which ones matter, and patches that replace some of them. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

import typer

from coterie.cli.options import Json, Model

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
    """Take a patch off a model it was written into; refused where the model no longer holds the patch's
    values.
    """
    from coterie.cli.patches import remove as run

    run(model, patch, base, out, as_json)


MaxTokens = Annotated[int, typer.Option(help="Tokens read of each source.", min=2)]


def profile(
    model: Model,
    data: Annotated[list[str], typer.Argument(help="Texts or conversations of the task.")],
    out: Out = "profile.json",
    max_tokens: MaxTokens = 50_000,
    as_json: Json = False,
) -> None:
    """Count which experts a task's texts use, layer by layer, and with how much gate weight."""
    from coterie.cli.experts import profile as run

    run(model, data, out, max_tokens, as_json)


def select(
    profile: Annotated[str, typer.Argument(help="A file of `coterie profile`.")],
    method: Annotated[
        str, typer.Option(help="esft-gate, esft-token (with --p), hot or random (with --top).")
    ],
    p: Annotated[
        float | None, typer.Option(help="Share of the layer's scores that the chosen ones make up.")
    ] = None,
    top: Annotated[float | None, typer.Option(help="Share of each layer's experts.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random choice.")] = 0,
    out: Out = "experts.json",
    as_json: Json = False,
) -> None:
    """Choose the experts that matter for a task; `coterie tune --experts` trains these alone."""
    from coterie.cli.experts import select as run

    run(profile, method, p, top, seed, out, as_json)  # type: ignore[arg-type]


def routing(
    base: Model,
    tuned: Annotated[
        str | None, typer.Argument(help="The same model after tuning, on the same tokens.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="A source of text, one kind each (give it again).")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="A report, .html or .json.")] = None,
    max_tokens: MaxTokens = 20_000,
    max_overload: Annotated[float | None, typer.Option(help="Fail above this worst overload.")] = None,
    max_dead: Annotated[float | None, typer.Option(help="Fail above this share of dead experts.")] = None,
    min_overlap: Annotated[float | None, typer.Option(help="Fail below this overlap with the base.")] = None,
    as_json: Json = False,
) -> None:
    """How a model routes: use of experts, specialisation, and what tuning moved, token by token."""
    from coterie.cli.experts import routing as run

    limits = {"overload": max_overload, "dead": max_dead, "overlap": min_overlap}
    run(base, tuned, data or [], out, max_tokens, limits, as_json)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to the command line."""
    app.command(short_help="Count which experts a task's texts use.")(profile)
    app.command(short_help="Choose the experts that matter for a task.")(select)
    app.command(short_help="How a model routes, before and after tuning.")(routing)
    app.add_typer(patch_app, name="patch")
