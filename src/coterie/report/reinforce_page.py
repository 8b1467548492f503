"""The page of a reinforcement run: what it gained, how, at which cost, and every reply that was sampled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from coterie.config.files import write_text
from coterie.report import reinforce_plots as plots
from coterie.report.plots import Records
from coterie.report.reinforce_words import (
    change_words,
    compute_words,
    findings,
    p_words,
    percent,
    range_words,
)
from coterie.report.rollouts import KeptRollouts
from coterie.report.templates import render_template
from coterie.report.tuning_page import dotted
from coterie.report.words import count, duration
from coterie.results.accuracy import AccuracyChange
from coterie.results.reinforce import HeldOutReply, ReinforceRecord, ReinforceStart

_LONGEST = 20_000  # characters of a text that are shown
_OPEN = 3  # samples that are unfolded
_LAYERS = 6  # layers whose experts are drawn

# key of a rollout or train record, title, kind of figure
_TRENDS = (
    ("reward", "Reward of sampled replies", "plain"),
    ("informative", "Groups with a signal", "share"),
    ("tokens_per_reply", "Tokens of a sampled reply", "plain"),
    ("entropy", "Entropy, nats a token", "plain"),
    ("truncated", "Replies cut off", "share"),
    ("mismatch", "Sampler against trainer, largest nats", "log"),
    ("routing_flips", "Other experts in training than in sampling", "share"),
    ("effective_share", "Effective share of the sample", "share"),
    ("clipped", "Tokens whose ratio was clipped", "share"),
    ("kl", "KL to the model of the start, nats", "plain"),
    ("grad_norm", "Norm of the gradient", "plain"),
    ("worst_overload", "Load of the busiest expert over the mean", "plain"),
    ("dead_experts", "Experts that no token chose", "plain"),
)


@dataclass(frozen=True)
class DrawnRun:
    """A run to draw. `record`: None while it has not ended. `metrics`: the records of `metrics.jsonl`."""

    name: str
    start: ReinforceStart
    record: ReinforceRecord | None
    metrics: Records
    kept: KeptRollouts

    @property
    def steps(self) -> int:
        """Optimiser steps so far."""
        return max((record["step"] for record in self.metrics if record["kind"] == "train"), default=0)

    @property
    def points(self) -> list[plots.AccuracyPoint]:
        """Held-out accuracy during the run."""
        return plots.accuracy_points(self.start.watched, self.metrics)

    @property
    def flops(self) -> tuple[float, float]:
        """(sampling, training) operations so far."""
        rollouts = [record for record in self.metrics if record["kind"] == "rollout"]
        sampling = sum(record["sampling_flops"] for record in rollouts)
        return sampling, sum(record["training_flops"] for record in rollouts)


def write_reinforce_page(run: DrawnRun, path: str | Path) -> None:
    """Write the page to `path`, whole or not at all."""
    write_text(path, render_reinforce(run))


def render_reinforce(run: DrawnRun) -> str:
    """The page as text."""
    start, record, kept = run.start, run.record, run.kept
    levels = sorted(kept.by_level)
    script = (resources.files("coterie.report") / "rollouts.js").read_text(encoding="utf-8")
    return render_template(
        "reinforce.html.jinja",
        title=run.name,
        task=start.task,
        model=_model_words(start),
        cards=[*_cards(run)],
        lines=findings(record) if record is not None else _so_far(run),
        ended=record is not None,
        accuracy=[*_accuracy_figures(run)],
        trends=[*_trend_figures(run)],
        pass_at=None
        if record is None or record.pass_at is None
        else _figure(plots.pass_at_curves, record.pass_at),
        experts=[*_expert_figures(record)],
        samples=[_sample(one.kind, one.before, one.after) for one in record.samples] if record else [],
        unfolded=_OPEN,
        readiness=start.readiness.words(),
        kept=kept,
        levels=levels,
        packed=Markup(json.dumps([vars(one) for one in kept.packed])),
        script=Markup(script),
        facts=[*_facts(run)],
        settings=[*dotted(start.config)],
    )


def _model_words(start: ReinforceStart) -> str:
    size = start.size
    return (
        f"a {'mixture of experts' if size.moe else 'dense model'} of "
        f"{count(size.parameters)} parameters, {count(size.active)} of them active a token besides embedding "
        f"and head, {count(size.trainable)} trained"
    )


def _so_far(run: DrawnRun) -> list[str]:
    """What can be said of a run that has not ended."""
    last = run.points[-1]
    return [
        f"The run has not ended: {run.steps} of {run.start.config.get('steps', '?')} steps are on this page.",
        f"Right replies to held-out problems (split val): {percent(run.start.watched.value)} before "
        f"({range_words(run.start.watched)}), {percent(last.found.value)} after {last.steps} steps "
        f"({range_words(last.found)}).",
        f"So far: {compute_words(*run.flops)}.",
    ]


def _cards(run: DrawnRun) -> Iterator[dict[str, str]]:
    """The headline figures: title, before, after, note."""
    record = run.record
    if record is None:
        first, last = run.start.watched, run.points[-1].found
        yield _card(
            "Held-out accuracy", percent(first.value), percent(last.value), f"now {range_words(last)}"
        )
        return
    yield _accuracy_card("Held-out accuracy", record.change)
    if record.beyond is not None:
        yield _accuracy_card("One level above training", record.beyond)
    if record.pass_at is not None:
        tries, ends = record.pass_at.before.samples, (record.pass_at.before, record.pass_at.after)
        before, after = (percent(one.curve[-1].value) for one in ends)
        sampled = " to ".join(percent(one.curve[0].value) for one in ends)
        yield _card(f"One of {tries} tries right", before, after, f"the first try: {sampled}")
    before, after = (f"{length:.0f}" for length in record.mean_tokens)
    yield _card("Tokens of a reply", before, after, "most likely replies to held-out problems")


def _accuracy_card(title: str, change: AccuracyChange) -> dict[str, str]:
    note = f"{range_words(change.after)} now; {change.gained} gained, {change.lost} lost, {p_words(change.p)}"
    return _card(title, percent(change.before.value), percent(change.after.value), note)


def _card(title: str, before: str, after: str, note: str) -> dict[str, str]:
    return {"title": title, "before": before, "after": after, "note": note}


def _figure(draw: Callable[..., str], *values: Any) -> Markup:
    return Markup(draw(*values))


def _accuracy_figures(run: DrawnRun) -> Iterator[Markup]:
    points, sampled = run.points, [record for record in run.metrics if record["kind"] == "rollout"]
    if len(points) < 2:
        return
    yield _figure(plots.accuracy_curves, {"held out": points}, "steps", sampled)
    yield _figure(plots.accuracy_curves, {run.name: points}, "tokens")
    yield _figure(plots.accuracy_curves, {run.name: points}, "flops")


def _trend_figures(run: DrawnRun) -> Iterator[Markup]:
    for key, title, kind in _TRENDS:
        points = [(record["step"], record[key]) for record in run.metrics if _drawable(record, key)]
        if len(points) > 1 and (kind == "share" or any(value for _, value in points)):
            shown = [(step, max(value, 1e-9)) for step, value in points] if kind == "log" else points
            yield _figure(plots.trend, shown, f"trend-{key}".replace("_", "-"), title, kind)
    levels = {f"level {level}": points for level, points in run.kept.by_level.items() if len(points) > 1}
    if len(levels) > 1:
        yield _figure(plots.trends, levels, "levels", "Right replies in training by level")
    parts = {name: points for name, points in run.kept.parts.items() if len(points) > 1}
    if len(parts) > 1:
        yield _figure(plots.trends, parts, "parts", "Parts of the reward")


def _drawable(record: Any, key: str) -> bool:
    """Whether a record has a figure to draw; loss, of train records, is none: it says nothing here."""
    return record["kind"] in ("rollout", "train") and isinstance(record.get(key), int | float)


def _expert_figures(record: ReinforceRecord | None) -> Iterator[Markup]:
    layers = sorted(record.experts) if record is not None else []
    most = min(_LAYERS, len(layers))
    for at in range(most):
        layer = layers[round(at * (len(layers) - 1) / max(1, most - 1))]
        assert record is not None
        yield _figure(plots.expert_loads, layer, *record.experts[layer])


def _sample(kind: str, before: HeldOutReply, after: HeldOutReply) -> dict[str, Any]:
    title = {
        "gained": "gained: wrong before, right after",
        "lost": "lost: right before, wrong after",
        "right": "right before and after",
        "wrong": "wrong before and after",
    }[kind]
    sides = [
        {"name": name, "reply": reply, "reasoning": _cut(reply.reasoning), "content": _cut(reply.content)}
        for name, reply in (("before", before), ("after", after))
    ]
    return {"kind": kind, "title": title, "prompt": _cut(before.prompt), "problem": before, "sides": sides}


def _cut(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}\n… ({len(text) - _LONGEST:,} more characters)"


def _facts(run: DrawnRun) -> Iterator[tuple[str, str]]:
    """(name, value) of the run's circumstances."""
    start, record = run.start, run.record
    sampling, training = run.flops
    yield "task", f"{start.task}, version {start.task_version}"
    yield "ended", record.ended if record is not None else "not yet"
    yield "steps", f"{run.steps:,}"
    yield "operations of sampling", count(sampling)
    yield "operations of training", count(training)
    if record is not None:
        yield "tokens sampled", f"{record.tokens_sampled:,}"
        yield "tokens trained on, prompts included", f"{record.tokens_trained:,}"
        yield "time in steps", duration(record.seconds)
        yield "held-out accuracy", change_words(record.change)
    yield from start.versions.items()
