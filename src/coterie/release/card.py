"""The card of a release (`README.md`), rendered from the report: nobody types a number into it.

Flags stand above the scores and in every row, and travel with the scores in the hub's metadata.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

from coterie.report.safety_text import safety_markdown
from coterie.report.words import count
from coterie.results.evaluation import EvalReport, TaskResult, Waiver

MARKER = "Rendered by coterie {version} from report.json. Do not edit: `coterie release check` compares both."
_ASSURED = {
    "self_attested": "The publisher measured this model; nobody else has confirmed it.",
    "third_party": "Somebody other than the publisher measured this model.",
    "reproduced": "A second party has measured this model again.",
}
_RENDERED = re.compile(re.escape(MARKER).replace(r"\{version\}", r"(\S+)"))


@dataclass(frozen=True)
class CardFacts:
    """What a card is made from.

    `name`: where users find the model. `licence`: an SPDX identifier or a name. `licence_file`: in the
    bundle. `key`: digest of the publisher's key. `manifest`: the content of `coterie.json`. `about`: the
    user's prose. `routed`: a mixture of experts. `waivers`: those signed for this release, besides those of
    the report. `endpoints`: servers of the model.
    """

    report: EvalReport
    name: str
    licence: str
    licence_file: str
    key: str
    manifest: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""
    routed: bool = False
    waivers: Sequence[Waiver] = ()
    endpoints: Sequence[str] = ()


@dataclass(frozen=True)
class Headline:
    """The score that stands first, over which items, and its interval where it has one."""

    value: float
    low: float | None
    high: float | None
    of: str


def headline(task: TaskResult) -> Headline:
    """The score over all items, or over the clean ones where contamination decides that they count."""
    splits, score = task.splits, task.score
    if splits is not None and splits.clean.value is not None and splits.clean_counts:
        return Headline(splits.clean.value, splits.clean.low, splits.clean.high, "clean items")
    return Headline(score.value, score.low, score.high, "all items")


def task_flags(report: EvalReport, task: TaskResult) -> list[str]:
    """The flags of one task, without its name."""
    return [flag.removeprefix(f"{task.id}:") for flag in report.flags if flag.startswith(f"{task.id}:")]


def rendered_by(text: str) -> str | None:
    """The version of coterie that rendered a card; None for a text that is not a card."""
    match = _RENDERED.search(text)
    return None if match is None else match[1]


def render_card(facts: CardFacts) -> str:
    """The card as Markdown, the same for the same facts and version."""
    import jinja2

    report = facts.report
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False, keep_trailing_newline=True
    )
    template = (resources.files("coterie.release") / "card.md.jinja").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        front=_front(facts),
        marker=MARKER.format(version=importlib.metadata.version("coterie")),
        name=_plain(facts.name),
        verdict=report.verdict,
        flags=list(_flag_lines(report)),
        waivers=[
            {"flag": _plain(one.flag), "reason": _plain(one.reason), "by": one.by[:19]}
            for one in (*report.waivers, *facts.waivers)
        ],
        about=facts.about.strip(),
        scores=_scores(report),
        assurance=_ASSURED[report.assurance],
        clustered=" or clusters of them" if any(t.score.clusters < t.n for t in report.tasks) else "",
        contamination=_contamination(report),
        looks=_looks(report),
        safety=_safety(report),
        training=_training(facts),
        identity=_identity(report),
        profile=_profile(report),
        place=_plain(facts.name),
        key=facts.key,
        licence=_licence(facts),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _front(facts: CardFacts) -> str:
    """The metadata that the hub reads, flags in the name of each metric."""
    report = facts.report
    results = []
    for task in report.tasks:
        first, flags = headline(task), task_flags(report, task)
        noted = f" [{', '.join(flags)}]" if flags else ""
        metric = {
            "type": _line(task.score.metric),
            "name": _line(f"{task.score.metric}, {first.of}{noted}"),
            "value": round(first.value, 4),
        }
        results.append(
            {
                "task": {"type": "text-generation"},
                "dataset": {"name": _line(task.id), "type": _line(task.id), "revision": task.items},
                "metrics": [metric],
            }
        )
    data: dict[str, Any] = {
        "license": facts.licence,
        "library_name": "coterie",
        "pipeline_tag": "text-generation",
        "tags": ["coterie", *(["moe", "mixture-of-experts"] if facts.routed else [])],
    }
    parent = facts.manifest.get("parent")
    if isinstance(parent, str) and re.fullmatch(r"[\w.-]+/[\w.-]+(@\w+)?", parent):
        data["base_model"] = parent.partition("@")[0]
    data["model-index"] = [{"name": _line(facts.name), "results": results}]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)


def _flag_lines(report: EvalReport) -> Iterator[str]:
    """Every flag, with what its detector says where it is one of a task's."""
    for flag in report.flags:
        name, _, detector = flag.partition(":")
        task = report.task(name)
        found = [one for one in task.detectors if one.id == detector] if task is not None else []
        yield f"{_plain(flag)}: {_plain(found[0].says)}" if found else _plain(flag)
    if not report.flags:
        yield "the report names no single flag"


def _scores(report: EvalReport) -> str:
    rows = []
    for task in report.tasks:
        first, flags = headline(task), task_flags(report, task)
        whole = "" if first.of == "all items" else f" (all items: {task.score.value:.3f})"
        rows.append(
            (
                f"{task.id} {task.version}",
                task.score.metric,
                f"**{first.value:.3f}** over {first.of}{whole}",
                "none" if first.low is None or first.high is None else f"{first.low:.3f} to {first.high:.3f}",
                f"{task.n:,}",
                f"{task.extraction.unparsed} unread, {task.extraction.truncated} cut",
                ", ".join(flags) or "none",
            )
        )
    head = ("task", "metric", "score", "95 % interval", "items", "replies", "flags")
    return _table(head, rows) if rows else "No task was scored."


def _contamination(report: EvalReport) -> str:
    rows = []
    for task in report.tasks:
        if task.splits is not None:
            parts = (task.splits.clean, task.splits.contaminated, task.splits.unscannable)
            cells = [f"{one.items:,}" + ("" if one.value is None else f": {one.value:.3f}") for one in parts]
            change = task.splits.clean_minus_all
            moved = "" if change is None else f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
            rows.append((task.id, *cells, moved, f"{task.splits.coverage:.1%}"))
    head = ("task", "clean", "contaminated", "unscannable", "clean minus all", "looked up")
    return _table(head, rows) if rows else ""


def _looks(report: EvalReport) -> str:
    looks = report.looks
    if looks is None:
        return ""
    rows = []
    for name, number in looks.looks.items():
        corrected = looks.corrected.get(name)
        wide = "" if corrected is None else f"{corrected.low:.3f} to {corrected.high:.3f}"
        rows.append((name, f"{number:,}", str(looks.rank.get(name, "")), wide))
    table = _table(("task", "looks", "rank of this model", "interval, corrected for choosing"), rows)
    return (
        f"{table}\n\n{looks.checkpoints:,} checkpoints were scored. The head of the ledger is "
        f"`{looks.head}`; it cannot show what was scored outside it."
    )


def _safety(report: EvalReport) -> str:
    return "Not measured." if report.safety is None else safety_markdown(report.safety).rstrip()


def _training(facts: CardFacts) -> str:
    training, manifest = facts.report.training, facts.manifest
    lines = []
    card = manifest.get("data_card")
    totals = card.get("totals", {}).get("train") if isinstance(card, Mapping) else None
    if isinstance(totals, Mapping):
        lines.append(
            f"Prepared text: {totals.get('documents', 0):,} documents, {count(totals.get('num_bytes', 0))}B, "
            f"{count(totals.get('tokens', 0))} tokens."
        )
    rows = [
        (
            stage.name,
            "not counted" if stage.tokens is None else f"{stage.tokens:,}",
            f"`{stage.data or 'unknown'}`",
            f"`{stage.index}`" if stage.index else "none",
            "" if stage.index_coverage is None else f"{stage.index_coverage:.1%}",
        )
        for stage in training.stages
    ]
    if rows:
        lines.append(_table(("stage", "tokens", "data", "index of the data", "indexed"), rows))
    if training.manifest:
        lines.append(f"The facts of the training are in `coterie.json` (`{training.manifest}`).")
    return "\n\n".join(lines) or "The publisher states nothing about the training data."


def _identity(report: EvalReport) -> str:
    subject = report.subject
    names = {
        "tensors": subject.weights_tensors,
        "weight files": subject.weights_files,
        "tokenizer": subject.tokenizer,
        "chat template": subject.chat_template,
        "generation settings": subject.generation_config,
    }
    rows = [(name, f"`{digest}`") for name, digest in names.items() if digest]
    rows += [("made from", f"`{digest}`") for digest in subject.lineage]
    return _table(("what", "digest"), rows)


def _profile(report: EvalReport) -> str:
    one = report.exec_profile
    held = ", ".join(f"{name} {form}" for name, form in one.quantisation.items())
    rows = [
        ("engine", f"{one.engine} {one.version}"),
        ("type", f"{one.dtype}{'; ' + held if held else ''}"),
        ("device", ", ".join(part for part in (one.device, one.processor) if part)),
        ("kernels", one.kernels),
        ("no token dropped", _yes(one.dropless)),
        ("same reply in every batch", _yes(one.batch_invariant)),
        ("commit", f"{one.commit}{' with changes' if one.dirty else ''}" if one.commit else ""),
        ("seeds", ", ".join(f"{name} {value}" for name, value in report.seeds.items())),
        ("report made", report.created),
        ("plan locked", f"{report.plan.locked_at} (`{report.plan.digest}`)" if report.plan else ""),
    ]
    return _table(("what", "value"), [row for row in rows if row[1]])


def _licence(facts: CardFacts) -> str:
    servers = "".join(f"\n\nServed at {_plain(url)}." for url in facts.endpoints)
    return f"{_plain(facts.licence)}; the text is in [{facts.licence_file}]({facts.licence_file}).{servers}"


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not measured"}[value]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(_cell(cell) for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text if text.startswith(("**", "`")) else _plain(text)


def _plain(text: str) -> str:
    """One line that neither ends a cell nor holds a tag or a picture."""
    text = _line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("|", "\\|").replace("![", "!&#91;")


def _line(text: str) -> str:
    """Without line breaks: in YAML, a line of three hyphens would end the metadata."""
    return " ".join(text.split())
