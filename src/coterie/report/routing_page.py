"""How a model routes, before and after tuning, as one self-contained HTML page and as text; drawn from its
record.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from coterie.config.files import write_text
from coterie.report import words
from coterie.report.plots import expert_map
from coterie.report.schema import RoutingResults
from coterie.report.svg import INK, MOE, axes, inline, styled

Record = Mapping[str, Any]


def write_routing_page(record: Record, path: str | Path, title: str) -> None:
    """Write the page of `evaluate.routing.compare`'s record to `path`, whole or not at all."""
    write_text(path, render_routing(record, title))


def render_routing(record: Record, title: str) -> str:
    """The page as text."""
    import jinja2
    from markupsafe import Markup

    here = resources.files("coterie.report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((here / "routing.html.jinja").read_text(encoding="utf-8"))
    last = list(record["models"].values())[-1]
    results = _shares(record, last)
    return template.render(
        title=title,
        css=Markup((here / "page.css").read_text(encoding="utf-8")),
        lines=summary_lines(record),
        tokens=words.count(sum(record["tokens"].values())),
        domains=record["domains"],
        drift=Markup(drift_map(record)) if "drift" in record else None,
        maps=[Markup(expert_map(results, index)) for index in range(len(results.layers))],
        rows=_rows(record),
        texts=_texts(record),
        pairs=[
            {"layer": layer, **pair}
            for layer, facts in last["layers"].items()
            for pair in facts["together"][:3]
        ],
    )


def summary_lines(record: Record) -> list[str]:
    """The findings as sentences, worst layers named."""
    lines = []
    for name, model in record["models"].items():
        layers = model["layers"]
        dead = sum(len(facts["dead"]) for facts in layers.values())
        experts = sum(len(facts["share"]) for facts in layers.values())
        worst = max(layers, key=lambda layer: layers[layer]["worst_overload"])
        entropy = sum(facts["entropy"] for facts in layers.values()) / len(layers)
        lines.append(
            f"{name}: {dead} of {experts} experts dead, entropy {entropy:.3f} of 1, worst overload "
            f"{layers[worst]['worst_overload']:.2f} times the mean (layer {worst})"
        )
    if "drift" in record:
        layers = record["drift"]["layers"]
        worst = min(layers, key=lambda layer: layers[layer]["overlap"])
        mean = sum(facts["overlap"] for facts in layers.values()) / len(layers)
        lines.append(
            f"drift: {mean:.1%} of chosen experts are the same as before, least in layer {worst} "
            f"({layers[worst]['overlap']:.1%})"
        )
        kl = record["drift"]["logit_kl"]
        lines.append(
            "logits: divergence " + ", ".join(f"{domain} {value:.4f}" for domain, value in kl.items())
        )
    return lines


@styled
def drift_map(record: Record) -> str:
    """Share of chosen experts that stayed the same, by layer, one line per domain."""
    layers = record["drift"]["layers"]
    figure, ax = axes(4.6, 3.0)
    places = [int(layer) for layer in layers]
    for index, domain in enumerate(record["domains"]):
        values = [facts["overlap_by_domain"][domain] for facts in layers.values()]
        fade = 1.0 - 0.7 * index / max(1, len(record["domains"]))
        ax.plot(places, values, color=MOE, alpha=fade, marker="o", markersize=4, label=domain)
    ax.axhline(1, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
    ax.set(xlabel="layer", ylim=(0, 1.05), title="Chosen experts that stayed the same")
    ax.set_xticks(places)
    ax.legend(fontsize=8)
    return inline(figure, "drift", "Share of chosen experts that stayed the same, by layer and kind of text.")


def _shares(record: Record, model: Mapping[str, Any]) -> RoutingResults:
    """The shares by domain in the form that `expert_map` draws; absent experts have share 0."""
    layers, domains = model["layers"], record["domains"]
    num_experts = max(len(facts["share"]) for facts in layers.values())
    share = [
        [[*facts["by_domain"][d], *[0.0] * (num_experts - len(facts["share"]))] for d in domains]
        for facts in layers.values()
    ]
    data = {"layers": [int(layer) for layer in layers], "num_experts": num_experts, "top_k": 1}
    return RoutingResults.from_dict(data | {"slices": domains, "share": share})


def _rows(record: Record) -> list[dict[str, Any]]:
    rows = []
    for name, model in record["models"].items():
        for layer, facts in model["layers"].items():
            drift = (
                record["drift"]["layers"][layer]["overlap"] if "drift" in record and name == "tuned" else None
            )
            rows.append(
                {
                    "model": name,
                    "layer": layer,
                    "entropy": f"{facts['entropy']:.3f}",
                    "overload": f"{facts['worst_overload']:.2f}",
                    "dead": ", ".join(map(str, facts["dead"])) or "none",
                    "specialisation": f"{facts['specialisation']:.3f}",
                    "overlap": "" if drift is None else f"{drift:.1%}",
                }
            )
    return rows


def _texts(record: Record) -> list[dict[str, str]]:
    rows = []
    for domain in record["domains"]:
        row = {"domain": domain, "tokens": words.count(record["tokens"][domain])}
        row |= {name: f"{model['nats_per_token'][domain]:.4f}" for name, model in record["models"].items()}
        rows.append({"tuned": "", **row})
    return rows
