"""`coterie merge` and `coterie adapter`: the work behind the verbs, and how its answers read."""

from __future__ import annotations

import json
from typing import Any

from coterie.adapters.files import adapter_base
from coterie.adapters.merge import Merge, merge_checkpoint
from coterie.adapters.peft_layouts import LAYOUTS, Layout
from coterie.adapters.tools import convert_adapter, diff_adapters, inspect_adapter
from coterie.config import ConfigError, suggest


def merge(base: str, adapter: str, out: str, dtype: str | None, layout: str | None, as_json: bool) -> None:
    """Write base plus adapter as a checkpoint and say how well it survived."""
    result = merge_checkpoint(base, adapter, out, dtype, _layout(layout))
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    print(
        f"merged      {result.out} ({result.dtype}){', the base was quantised' if result.dequantised else ''}"
    )
    print(_survived(result))


def _survived(result: Merge) -> str:
    apart = result.difference
    lines = [
        f"checked     {apart.positions} positions: base with adapter and the written model differ by "
        f"{apart.mean_logprob:.2g} nats on average, {apart.max_logprob:.2g} at most",
        f"tuning      moved the base by {result.change:.2g} nats; base gravity {result.gravity:.3f} (1 tuned, 0 base)",
    ]
    if result.adapter_probes is None:
        lines.append(
            "note        the adapter holds no probes: that it is read as it was trained cannot be shown"
        )
    return "\n".join(lines)


def inspect(adapter: str, base: str | None, layout: str | None, as_json: bool) -> None:
    """Print what an adapter is."""
    facts = inspect_adapter(adapter, base, _layout(layout))
    if as_json:
        print(json.dumps(facts))
        return
    print(f"adapter     {facts['path']} ({facts['family']}, made by {facts['made_by']})")
    print(
        f"base        {facts['base']} ({'its tensors match' if facts['base_checked'] else 'not stamped: unchecked'})"
    )
    print(f"layout      {facts['layout']} (known by {facts['layout_known_by']})")
    if facts["rank_rule"]:
        print(f"rank rule   {facts['rank_rule']}")
    print(f"{'group':<11} {'layers':>6} {'parameters':>12} {'rank':>6} {'scale':>7} {'change':>9}")
    for row in facts["groups"]:
        ranks, scales = (",".join(f"{value:g}" for value in row[key]) for key in ("ranks", "scales"))
        notes = [
            text
            for text, holds in (("DoRA", facts["dora"]), ("chosen experts only", row.get("experts")))
            if holds
        ]
        size, change = f"{row['layers']:>6} {row['parameters']:>12,}", f"{row['change']:>9.4g}"
        print(f"{row['group']:<11} {size} {ranks:>6} {scales:>7} {change}  {', '.join(notes)}".rstrip())
    if facts["full"]:
        print(f"in full     {len(facts['full'])} tensors, {sum(facts['full'].values()):,} parameters")
    cannot = facts["peft_cannot"]
    print(f"PEFT        {'cannot load it: ' + ', '.join(cannot) if cannot else 'can load it'}")
    print(f"probes      {'recorded' if facts['probes'] else 'none'}")


def convert(
    source: str, to: str, out: str, base: str | None, layout: str | None, max_rank: int, as_json: bool
) -> None:
    """Write an adapter in another layout, or as a whole model."""
    if to == "merged":
        merge(base if base is not None else adapter_base(source), source, out, None, layout, as_json)
        return
    target = _layout(to, "--to")
    assert target is not None
    facts = convert_adapter(source, target, out, base, _layout(layout), max_rank)
    print(
        json.dumps(facts)
        if as_json
        else f"{facts['from']} -> {facts['to']}: {facts['layers']} layers in {out}"
    )


def diff(a: str, b: str, base: str | None, layout: str | None, as_json: bool) -> None:
    """Print how far two adapters are apart; exit with 1 when they are not the same."""
    facts = diff_adapters(a, b, base, _layout(layout))
    if as_json:
        print(json.dumps(facts))
    else:
        _print_diff(facts)
    if not facts["same"]:
        raise SystemExit(1)


def _print_diff(facts: dict[str, Any]) -> None:
    differing = sorted(
        (row for row in facts["layers"] if row["difference"] > 1e-6), key=lambda r: -r["difference"]
    )
    for row in differing[:20]:
        more = f"only in the {row['only_in']}" if "only_in" in row else f"cosine {row.get('cosine', 0.0):.4f}"
        print(f"  {row['name']:<40} {row['difference']:.3g}  {more}")
    if len(differing) > 20:
        print(f"  and {len(differing) - 20} more")
    verdict = "same" if facts["same"] else "different"
    print(
        f"{verdict}: {len(differing)} of {len(facts['layers'])} layers differ, the most by {facts['worst']:.3g}"
    )


def _layout(name: str | None, option: str = "--assume-layout") -> Layout | None:
    if name is None or name in LAYOUTS:
        return name
    hint = suggest(name, LAYOUTS) or f"; layouts: {', '.join(LAYOUTS)}"
    raise ConfigError(f"{option} {name}: no such layout{hint}")
