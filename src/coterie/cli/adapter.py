"""`coterie merge` and `coterie adapter`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Json
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.adapters.merge import Merge
    from coterie.adapters.peft_layouts import Layout
    from coterie.adapters.tools import AdapterDifference, AdapterFacts

Base = Annotated[str, typer.Argument(help="The checkpoint that the adapter was made for.")]
Adapter = Annotated[str, typer.Argument(help="The directory of an adapter, ours or PEFT's.")]
NewOut = Annotated[str, typer.Option("--out", "-o", help="Where to write; must not exist.")]
OfBase = Annotated[str | None, typer.Option("--base", help="The base (default: the one the adapter names).")]
Assume = Annotated[
    str | None,
    typer.Option(
        help="Layout of the experts where the files do not say: peft, peft019, peft018, vllm3d, per-expert."
    ),
]


def merge(
    base: Base,
    adapter: Adapter,
    out: NewOut,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16 (default: the base's own).")] = None,
    assume_layout: Assume = None,
    as_json: Json = False,
) -> None:
    """Write base plus adapter as a whole checkpoint and prove that it is the tuned model.

    If the proof fails, nothing is written.
    """
    from coterie.adapters.merge import merge_checkpoint

    result = merge_checkpoint(base, adapter, out, dtype, _layout(assume_layout))
    answer(result.to_dict(), as_json, _merged(result))


def _merged(result: Merge) -> Iterator[str]:
    apart = result.difference
    yield (
        f"merged      {result.out} ({result.dtype}){', the base was quantised' if result.dequantised else ''}"
    )
    yield (
        f"checked     {apart.positions} positions: base with adapter and the written model differ by "
        f"{apart.mean_logprob:.2g} nats on average, {apart.max_logprob:.2g} at most"
    )
    yield (
        f"tuning      moved the base by {result.change:.2g} nats; base gravity {result.gravity:.3f} "
        "(1 tuned, 0 base)"
    )
    if result.adapter_probes is None:
        yield "note        the adapter stores no probes, so nothing shows that it is read as it was trained"


def inspect(
    adapter: Adapter, base: OfBase = None, assume_layout: Assume = None, as_json: Json = False
) -> None:
    """Show an adapter's layout and how it is known, its base, its groups, and who can load it."""
    from coterie.adapters.tools import inspect_adapter

    facts = inspect_adapter(adapter, base, _layout(assume_layout))
    answer(facts.to_dict(), as_json, _inspected(facts))


def _inspected(facts: AdapterFacts) -> Iterator[str]:
    yield f"adapter     {facts.path} ({facts.family}, made by {facts.made_by})"
    checked = "its tensors match" if facts.base_checked else "not stamped: unchecked"
    yield f"base        {facts.base} ({checked})"
    yield f"layout      {facts.layout} (known by {facts.layout_known_by})"
    if facts.rank_rule:
        yield f"rank rule   {facts.rank_rule}"
    yield f"{'group':<11} {'layers':>6} {'parameters':>12} {'rank':>6} {'scale':>7} {'change':>9}"
    for row in facts.groups:
        ranks, scales = (",".join(f"{value:g}" for value in values) for values in (row.ranks, row.scales))
        notes = ["DoRA"] * facts.dora + ["chosen experts only"] * bool(row.experts)
        size, change = f"{row.layers:>6} {row.parameters:>12,}", f"{row.change:>9.4g}"
        yield f"{row.group:<11} {size} {ranks:>6} {scales:>7} {change}  {', '.join(notes)}".rstrip()
    if facts.full:
        yield f"in full     {len(facts.full)} tensors, {sum(facts.full.values()):,} parameters"
    cannot = facts.peft_cannot
    yield f"PEFT        {'cannot load it: ' + ', '.join(cannot) if cannot else 'can load it'}"
    yield f"probes      {'recorded' if facts.probes else 'none'}"


def convert(
    adapter: Annotated[str, typer.Argument(help="An adapter's directory, or a merged model with --base.")],
    to: Annotated[str, typer.Option(help="peft, peft019, peft018, vllm3d, per-expert or merged.")],
    out: NewOut,
    base: OfBase = None,
    assume_layout: Assume = None,
    max_rank: Annotated[int, typer.Option(help="Highest rank taken out of a merged model.", min=1)] = 64,
    as_json: Json = False,
) -> None:
    """Write an adapter in another layout; every number it adds to the base stays the same."""
    from coterie.adapters.files import adapter_base
    from coterie.adapters.tools import convert_adapter

    if to == "merged":
        of = base if base is not None else adapter_base(adapter)
        merge(of, adapter, out, assume_layout=assume_layout, as_json=as_json)
        return
    target = _layout(to, "--to")
    assert target is not None
    made = convert_adapter(adapter, target, out, base, _layout(assume_layout), max_rank)
    answer(made.to_dict(), as_json, [f"{made.came_from} -> {made.to}: {made.layers} layers in {out}"])


def diff(
    a: Adapter,
    b: Annotated[str, typer.Argument(help="Another adapter of the same base.")],
    base: OfBase = None,
    assume_layout: Assume = None,
    as_json: Json = False,
) -> None:
    """Compare what two adapters do to each weight of their base; exits with 1 when they differ."""
    from coterie.adapters.tools import diff_adapters

    found = diff_adapters(a, b, base, _layout(assume_layout))
    answer(found.to_dict(), as_json, _differences(found))
    if not found.same:
        raise SystemExit(1)


def _differences(found: AdapterDifference) -> Iterator[str]:
    differing = sorted((row for row in found.layers if row.differs), key=lambda row: -row.difference)
    for row in differing[:20]:
        more = f"only in the {row.only_in}" if row.only_in else f"cosine {row.cosine or 0.0:.4f}"
        yield f"  {row.name:<40} {row.difference:.3g}  {more}"
    if len(differing) > 20:
        yield f"  and {len(differing) - 20} more"
    verdict = "same" if found.same else "different"
    yield f"{verdict}: {len(differing)} of {len(found.layers)} layers differ, the most by {found.worst:.3g}"


def _layout(name: str | None, option: str = "--assume-layout") -> Layout | None:
    """The layout of that name. Errors: `ConfigError`, with the nearest name."""
    from coterie.adapters.peft_layouts import LAYOUTS
    from coterie.config import ConfigError, suggest

    if name is None or name in LAYOUTS:
        return name
    hint = suggest(name, LAYOUTS) or f"; layouts: {', '.join(LAYOUTS)}"
    raise ConfigError(f"{option} {name}: no such layout{hint}")
