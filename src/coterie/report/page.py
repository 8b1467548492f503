"""The comparison as one self-contained HTML page: inline SVG, without scripts or external files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from coterie.config.files import write_text
from coterie.report import words
from coterie.report.plots import (
    Axis,
    Records,
    curves,
    expert_map,
    has_load,
    learning_rates,
    load,
    right_replies,
    slice_differences,
    slice_order,
    slice_scores,
)
from coterie.report.table import cost_rows
from coterie.report.templates import render_template
from coterie.results.quickstart import QuickstartResults
from coterie.results.routing import specialisation, specialists


def write_report(results: QuickstartResults, metrics: Mapping[str, Records], path: str | Path) -> None:
    """Write the page to `path`, whole or not at all.

    `metrics`: the records of `metrics.jsonl` under `moe` and `dense`. Of each record, `tokens`, `seconds`,
    `flops`, `bits_per_byte`, `dead_experts` and `worst_overload` are drawn if present.
    """
    write_text(path, render(results, metrics))


def render(results: QuickstartResults, metrics: Mapping[str, Records]) -> str:
    """The page as text."""
    routed = metrics.get("moe", ())
    drawings = {
        "curves": [(Markup(curves(results, metrics, x)), caption) for x, caption in _CURVES.items()],
        "slice_scores": Markup(slice_scores(results)),
        "slice_differences": Markup(slice_differences(results)),
        "layers": [
            {"svg": Markup(expert_map(results.routing, i)), "value": f"{specialisation(share):.2f}"}
            for i, share in enumerate(results.routing.share)
        ],
        "loads": [
            Markup(load(routed, key)) for key in ("dead_experts", "worst_overload") if has_load(routed, key)
        ],
        "right": Markup(right_replies(results.reasoning.curve))
        if results.reasoning and len(results.reasoning.curve) > 1
        else None,
        "rates": Markup(learning_rates(results)) if results.moe.lr_sweep and results.dense.lr_sweep else None,
    }
    return render_template(
        "page.html.jinja",
        r=results,
        verdict=words.verdict(results),
        reasoned=words.reasoned(results.reasoning) if results.reasoning else None,
        released=words.released(results.release) if results.release else None,
        fairness=words.fairness(results),
        cards=_cards(results),
        slices=_slices(results),
        specialists=specialists(results.routing),
        costs=cost_rows(results),
        probes=_probes(results),
        count=words.count,
        size=words.size,
        duration=words.duration,
        signed=words.signed,
        interval=words.interval,
        **drawings,
    )


_CURVES: dict[Axis, str] = {
    "tokens": "At equal tokens: both models read the same text in the same order.",
    "seconds": "At equal training time on this machine.",
    "flops": "At equal arithmetic, as if every operation took the same time on both.",
}


def _cards(results: QuickstartResults) -> list[dict[str, str]]:
    moe, dense, same, both = results.moe, results.dense, results.equal_time, results.difference
    who = {"moe": "the MoE is better", "dense": "the dense model is better", None: "no difference shown"}
    cards = [
        {
            "title": "Held-out bits per byte, equal tokens",
            "moe": f"{moe.bits_per_byte.value:.3f}",
            "dense": f"{dense.bits_per_byte.value:.3f}",
            "note": f"MoE minus dense {words.signed(both.value)} ({words.interval(both)}): "
            + who[words.winner(both)],
        }
    ]
    if same is not None:
        note = f"after {words.duration(same.seconds)} of training: {who[words.equal_time_winner(results)]}"
        title = "Held-out bits per byte, equal time"
        cards.append({"title": title, "moe": f"{same.moe:.3f}", "dense": f"{same.dense:.3f}", "note": note})
    ratio = moe.decode_tokens_per_second / dense.decode_tokens_per_second
    memory = moe.peak_memory_bytes / dense.peak_memory_bytes
    kernels = f"; kernels: {moe.decode_kernels}" if moe.decode_kernels else ""
    cards.append(
        {
            "title": "Generation, tokens per second",
            "moe": words.count(moe.decode_tokens_per_second),
            "dense": words.count(dense.decode_tokens_per_second),
            "note": f"the MoE generates at {ratio:.2f} times the speed{kernels}",
        }
    )
    cards.append(
        {
            "title": "Parameters",
            "moe": words.count(moe.total_parameters),
            "dense": words.count(dense.total_parameters),
            "note": f"the MoE needs {memory:.2f} times the peak memory",
        }
    )
    return cards


def _slices(results: QuickstartResults) -> list[dict[str, str]]:
    moe, dense, difference = results.moe.bits_per_byte, results.dense.bits_per_byte, results.difference
    rows = [("all", moe, dense, difference)]
    names = reversed(slice_order(results))
    rows += [(n, moe.per_slice[n], dense.per_slice[n], difference.per_slice[n]) for n in names]  # type: ignore[misc]
    return [
        {
            "name": name,
            "moe": f"{m.value:.3f}",
            "dense": f"{d.value:.3f}",
            "difference": words.signed(both.value),
            "interval": words.interval(both),
        }
        for name, m, d, both in rows
    ]


def _probes(results: QuickstartResults) -> list[dict[str, Any]]:
    return [
        {"name": name, "moe": f"{100 * value:.0f} %", "dense": f"{100 * results.dense.probes[name]:.0f} %"}
        for name, value in results.moe.probes.items()
    ]
