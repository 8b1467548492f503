"""A comparison of models as one self-contained HTML page: the verdict, then the figures behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from coterie.config.files import write_text
from coterie.report.compare_page import PageTable, comparison_page
from coterie.report.routing_page import load_map
from coterie.report.words import duration, size
from coterie.results.compare_models import ComparedModel, ModelComparison
from coterie.results.compare_tuned import TunedComparison
from coterie.results.paired import PairedDifference
from coterie.results.routing import ModelRouting

UNKNOWN = "not known"


def write_models_page(found: ModelComparison, path: str | Path) -> None:
    """Write the page of several models to `path`, whole or not at all."""
    write_text(path, render_models(found))


def render_models(found: ModelComparison) -> str:
    """The page as text."""
    lead = f"{len(found.models)} models on {found.examples} of your examples."
    return comparison_page(found, "Which model?", lead, [*_tables(found)])


def _tables(found: ModelComparison) -> Iterator[PageTable]:
    models, clients = found.models, found.models[0].clients
    yield PageTable(
        "Quality",
        ["model", "bits per byte", *models[0].scores],
        [
            [
                m.name,
                UNKNOWN if m.bits is None else f"{m.bits:.4f}",
                *(f"{s.value:.1%} ({s.low:.1%} to {s.high:.1%})" for s in m.scores.values()),
            ]
            for m in models
        ],
        "Bits per byte of the answers in your examples (lower is better). Tasks: the mean score, with its "
        "interval.",
    )
    yield PageTable(
        "Every two models",
        [
            "second against first",
            "on",
            "difference",
            "95 % interval",
            "p",
            "corrected p",
            "shown",
            "found from",
        ],
        [row for pair in found.pairs for row in _rows(f"{pair.second} against {pair.first}", pair.measures)],
        "Paired by example or item. The p values are corrected together (Holm), and a model counts as better "
        "only where interval and corrected p show it. The last column is the smallest difference that is "
        "found with probability 0.8.",
    )
    yield PageTable(
        "Speed and memory",
        ["model", "reading", "one reply", f"{clients} replies", "weights", "cost", "kernels"],
        [
            [
                f"{m.name} (through its server)" if m.served else m.name,
                *(_number(value) for value in (m.prefill, m.one, m.many)),
                UNKNOWN if m.weight_bytes is None else size(m.weight_bytes),
                _cost(m, found.price_per_hour),
                m.kernels or UNKNOWN,
            ]
            for m in models
        ],
        "Tokens per second, medians of rounds that take the models in turn. Through a server they are those "
        "of streamed replies, from the first piece on. Cost: per million tokens of "
        f"{clients} replies together, at the price per hour that was given for this machine.",
    )
    for place, model in enumerate(models):
        if model.routing is not None:
            yield _routing(model.name, model.routing, f"load-{place}")
    if found.tuned is not None:
        yield tuning_table(found.tuned)
    yield _sizes(models)


def _sizes(models: Sequence[ComparedModel]) -> PageTable:
    return PageTable(
        "The models",
        ["model", "family", "parameters", "active per token", "digest of the weights"],
        [
            [m.name, m.family or UNKNOWN, _number(m.parameters), _number(m.active_parameters), _digest(m)]
            for m in models
        ],
    )


def _routing(name: str, routing: ModelRouting, drawing: str) -> PageTable:
    rows = []
    for layer, facts in routing.layers.items():
        busiest = max(range(len(facts.share)), key=lambda expert: facts.share[expert])
        rows.append(
            [
                str(layer), f"{facts.entropy:.3f}", f"{facts.worst_overload:.2f}",
                f"{facts.share[busiest]:.1%} (expert {busiest})", str(len(facts.dead)),
                ", ".join(map(str, facts.dead[:16])) or "none",
            ]
        )  # fmt: skip
    return PageTable(
        f"How {name} routes your examples",
        ["layer", "entropy", "overload", "largest share", "dead", "dead experts"],
        rows,
        "Entropy: 1 if all experts are used equally. Overload: the busiest expert's share over the mean. "
        "Dead: no token of your examples chose it; with few examples that may be chance.",
        Markup(load_map(routing, drawing)),
    )


def tuning_table(tuned: TunedComparison) -> PageTable:
    """What the tuning of each model gained."""
    return PageTable(
        "What the same tuning gains",
        ["model", "before", "after", "difference", "95 % interval", "corrected p", "shown", "experts trained",
         "numbers trained", "time in steps", "size"],
        [
            [
                m.name, f"{m.gain.first:.4f}", f"{m.gain.second:.4f}", f"{m.gain.difference.value:+.4f}",
                f"{m.gain.difference.low:+.4f} to {m.gain.difference.high:+.4f}",
                f"{m.gain.p if m.gain.p_holm is None else m.gain.p_holm:.2g}",
                {"second": "better", "first": "worse", None: "no difference"}[m.gain.better],
                f"{m.experts_trained} of {m.experts}" if m.experts else "none: dense",
                f"{m.trainable:,}", duration(m.seconds), size(m.bytes),
            ]
            for m in tuned.models
        ],
        f"Bits per byte of {tuned.measured:,} of your examples. Every model was tuned for {tuned.steps:,} "
        f"steps of {tuned.batch} examples, the same ones in each step, with the same settings; the learning "
        "rate is the default for each model's size.",
    )  # fmt: skip


def _rows(pair: str, measures: dict[str, PairedDifference]) -> Iterator[list[str]]:
    for name, found in measures.items():
        yield [
            pair,
            name,
            found.number(found.difference.value, "+"),
            f"{found.number(found.difference.low, '+')} to {found.number(found.difference.high, '+')}",
            f"{found.p:.2g}",
            f"{found.p if found.p_holm is None else found.p_holm:.2g}",
            {"second": "better", "first": "worse", None: "no difference"}[found.better],
            "" if found.mde80 is None else found.number(found.mde80),
        ]


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


def _cost(model: ComparedModel, price: float | None) -> str:
    if model.dollars is not None:
        return f"{model.dollars:.3g}"
    return UNKNOWN if price is not None else ""


def _digest(model: ComparedModel) -> str:
    root = model.identity.weights_tensors
    return "the server does not say" if root is None else root[:19]
