"""How a model routes, before and after tuning, as one self-contained HTML page and as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from coterie.config.files import write_text
from coterie.report import words
from coterie.report.plots import expert_map, share_map
from coterie.report.svg import INK, MOE, axes, inline, styled
from coterie.report.templates import render_template
from coterie.results.routing import ModelRouting, RoutingRecord, RoutingShares


def write_routing_page(record: RoutingRecord, path: str | Path, title: str) -> None:
    """Write the page of a routing record to `path`, whole or not at all."""
    write_text(path, render_routing(record, title))


def render_routing(record: RoutingRecord, title: str) -> str:
    """The page as text."""
    last = record.last
    results = _shares(record, last)
    return render_template(
        "routing.html.jinja",
        title=title,
        lines=summary_lines(record),
        tokens=words.count(sum(record.tokens.values())),
        domains=record.domains,
        drift=Markup(drift_map(record)) if record.drift is not None else None,
        maps=[Markup(expert_map(results, index)) for index in range(len(results.layers))],
        rows=_rows(record),
        texts=_texts(record),
        pairs=[
            {"layer": layer, **pair.to_dict()}
            for layer, facts in last.layers.items()
            for pair in facts.together[:3]
        ],
    )


def summary_lines(record: RoutingRecord) -> list[str]:
    """The findings as sentences, with the worst layer of each."""
    lines = [f"{name}: {model.words()}" for name, model in record.models.items()]
    if record.drift is not None:
        moved = record.drift.layers
        least = min(moved, key=lambda layer: moved[layer].overlap)
        mean = sum(facts.overlap for facts in moved.values()) / len(moved)
        lines.append(
            f"drift: {mean:.1%} of the chosen experts are the same in both models, fewest in layer {least} "
            f"({moved[least].overlap:.1%})"
        )
        kl = ", ".join(f"{domain} {value:.4f}" for domain, value in record.drift.logit_kl.items())
        lines.append(f"divergence of the logits, nats per token: {kl}")
    return lines


@styled
def load_map(model: ModelRouting, name: str) -> str:
    """Share of the assignments that each expert (columns) gets in each layer (rows)."""
    width = max(len(facts.share) for facts in model.layers.values())
    rows = [[*facts.share, *[0.0] * (width - len(facts.share))] for facts in model.layers.values()]
    labels = [f"layer {layer}" for layer in model.layers]
    figure, ax = share_map(rows, labels, list(range(width)))
    ax.set_title("Load by layer and expert")
    return inline(figure, name, "Share of the assignments by layer and expert; the table has figures.")


@styled
def drift_map(record: RoutingRecord) -> str:
    """Share of chosen experts that stayed the same, by layer, with one line per domain."""
    assert record.drift is not None
    layers = record.drift.layers
    figure, ax = axes(4.6, 3.0)
    for index, domain in enumerate(record.domains):
        values = [facts.overlap_by_domain[domain] for facts in layers.values()]
        fade = 1.0 - 0.7 * index / max(1, len(record.domains))
        ax.plot(list(layers), values, color=MOE, alpha=fade, marker="o", markersize=4, label=domain)
    ax.axhline(1, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
    ax.set(xlabel="layer", ylim=(0, 1.05), title="Chosen experts that stayed the same")
    ax.set_xticks(list(layers))
    ax.legend(fontsize=8)
    return inline(figure, "drift", "Share of chosen experts that stayed the same, by layer and kind of text.")


def _shares(record: RoutingRecord, model: ModelRouting) -> RoutingShares:
    """The shares by domain in the form that `expert_map` draws; experts that a layer lacks have share 0."""
    num_experts = max(len(facts.share) for facts in model.layers.values())
    share = [
        [[*facts.by_domain[d], *[0.0] * (num_experts - len(facts.share))] for d in record.domains]
        for facts in model.layers.values()
    ]
    return RoutingShares(
        layers=list(model.layers), num_experts=num_experts, top_k=1, slices=record.domains, share=share
    )


def _rows(record: RoutingRecord) -> list[dict[str, Any]]:
    rows = []
    for name, model in record.models.items():
        for layer, facts in model.layers.items():
            moved = record.drift.layers[layer] if record.drift is not None and name == "tuned" else None
            rows.append(
                {
                    "model": name,
                    "layer": layer,
                    "entropy": f"{facts.entropy:.3f}",
                    "overload": f"{facts.worst_overload:.2f}",
                    "dead": ", ".join(map(str, facts.dead)) or "none",
                    "specialisation": f"{facts.specialisation:.3f}",
                    "overlap": "" if moved is None else f"{moved.overlap:.1%}",
                }
            )
    return rows


def _texts(record: RoutingRecord) -> list[dict[str, str]]:
    rows = []
    for domain in record.domains:
        row = {"domain": domain, "tokens": words.count(record.tokens[domain])}
        for name, model in record.models.items():
            row[name] = f"{model.nats_per_token[domain]:.4f}"
        rows.append({"tuned": "", **row})
    return rows
