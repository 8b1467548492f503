"""`coterie profile`, `coterie select` and `coterie routing`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Json, Model, Out
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.config import ExpertSelection
    from coterie.data.heldout import HeldoutDocument
    from coterie.evaluate.routing.profile import Profile, SelectionCover
    from coterie.nn.transformer import Transformer
    from coterie.results.routing import RoutingRecord

Tokens = Annotated[int, typer.Option("--max-tokens", help="Tokens read of each source.", min=2)]
LIMITS = "Limits (exit status 1 when one is exceeded)"


def profile(
    model: Model,
    data: Annotated[list[str], typer.Argument(help="Texts or conversations of the task.")],
    out: Out = "profile.json",
    max_tokens: Tokens = 50_000,
    as_json: Json = False,
) -> None:
    """Count which experts a task's texts use, layer by layer, and with how much gate weight."""
    from coterie.evaluate.routing.profile import profile as run

    loaded, documents = _loaded(model, data, max_tokens)
    found = run(loaded, documents, model)
    found.to_file(out)
    answer(found.to_dict(), as_json, _profiled(found, out))


def _profiled(found: Profile, out: str) -> Iterator[str]:
    for layer, counts in found.counts.items():
        best = sorted(range(len(counts)), key=lambda expert: -counts[expert])[:6]
        shares = ", ".join(f"{expert} {counts[expert] / sum(counts):.0%}" for expert in best)
        unused = sum(count == 0 for count in counts)
        yield f"layer {layer}: most used {shares}; {unused} of {len(counts)} unused"
    yield f"{found.tokens:,} tokens, profile: {out}"


def select(
    profile: Annotated[str, typer.Argument(help="A file of `coterie profile`.")],
    method: Annotated[
        str, typer.Option(help="esft-gate, esft-token (with --p), hot or random (with --top).")
    ],
    p: Annotated[
        float | None, typer.Option(help="Share of the layer's scores that the chosen ones make up.")
    ] = None,
    top: Annotated[float | None, typer.Option(help="Share of each layer's experts.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random choice.")] = 0,
    out: Out = "experts.json",
    as_json: Json = False,
) -> None:
    """Choose the experts that matter for a task; `coterie tune --experts` trains these alone."""
    from coterie.evaluate.routing.profile import Profile, describe_selection
    from coterie.evaluate.routing.profile import select as run

    found = Profile.from_file(profile)
    selection = run(found, method, p, top, seed)  # type: ignore[arg-type]  # it refuses an unknown method
    selection.to_file(out)
    facts = describe_selection(selection, found)
    answer(asdict(facts) | {"out": out, **selection.to_dict()}, as_json, _selected(selection, facts, out))


def _selected(selection: ExpertSelection, facts: SelectionCover, out: str) -> Iterator[str]:
    for layer, chosen in selection.experts.items():
        yield f"layer {layer}: {', '.join(map(str, chosen))}"
    yield (
        f"{facts.experts} of {facts.of} experts, {facts.token_share:.0%} of the assignments and "
        f"{facts.gate_share:.0%} of the gate weight; selection: {out}"
    )


def routing(
    base: Model,
    tuned: Annotated[
        str | None, typer.Argument(help="The same model after tuning, or an adapter or patch of it.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Text of one kind to route (repeatable; needed).")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="A report, .html or .json.")] = None,
    max_tokens: Tokens = 20_000,
    max_overload: Annotated[
        float | None, typer.Option(help="Fail above this worst overload.", rich_help_panel=LIMITS)
    ] = None,
    max_dead: Annotated[
        float | None, typer.Option(help="Fail above this share of dead experts.", rich_help_panel=LIMITS)
    ] = None,
    min_overlap: Annotated[
        float | None, typer.Option(help="Fail below this overlap with the base.", rich_help_panel=LIMITS)
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how a model routes: use of experts, specialisation, and what tuning moved, token by token."""
    from coterie.config import ConfigError

    if not data:
        raise ConfigError("routing: give at least one --data FILE to route")
    if out is not None and Path(out).suffix not in (".html", ".json"):
        raise ConfigError(f"routing: -o {out}: give a name that ends in .html or .json")
    if min_overlap is not None and tuned is None:
        raise ConfigError("routing: --min-overlap compares two models; give the tuned one too")
    found = _routed(base, tuned, data, max_tokens)
    broken = list(_broken(found, max_overload, max_dead, min_overlap))
    record = found.model_copy(update={"base": base, "tuned": tuned, "broken_limits": broken})
    if out is not None:
        _write(record, out)
    answer(record.to_dict(), as_json, _routing_lines(record, out))
    if broken:
        print("\n".join(f"coterie: routing: {line}" for line in broken), file=sys.stderr)
        raise SystemExit(1)


def _routed(base: str, tuned: str | None, data: list[str], max_tokens: int) -> RoutingRecord:
    from coterie.adapters.apply import apply_shared, is_variant
    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.evaluate.routing.compare import routing_report

    model, documents = _loaded(base, data, max_tokens)
    if tuned is None:
        other = None
    elif is_variant(tuned):
        other = apply_shared(model, tuned, Checkpoint.open(base))
    else:
        other = Checkpoint.open(tuned).load_as_stored().model
    return routing_report(model, documents, other)


def _loaded(directory: str, data: list[str], max_tokens: int) -> tuple[Transformer, list[HeldoutDocument]]:
    """The model, which must have experts, and the token ids of the texts."""
    from coterie.checkpoints.checkpoint import Checkpoint
    from coterie.data.heldout import read_domains
    from coterie.evaluate.routing.trace import require_experts

    loaded = Checkpoint.open(directory).load_as_stored()
    require_experts(loaded.model, directory)
    return loaded.model, read_domains(data, loaded.tokenizer, max_tokens, directory)


def _broken(
    record: RoutingRecord, overload: float | None, dead: float | None, overlap: float | None
) -> Iterator[str]:
    """One line for each limit that the last model, or the drift, exceeds."""
    layers = record.last.layers.values()
    worst = max(facts.worst_overload for facts in layers)
    if overload is not None and worst > overload:
        yield f"worst overload {worst:.2f} is above the limit of {overload:g}"
    share = sum(len(facts.dead) for facts in layers) / sum(len(facts.share) for facts in layers)
    if dead is not None and share > dead:
        yield f"the share of dead experts {share:.2f} is above the limit of {dead:g}"
    if overlap is not None and record.drift is not None:
        least = min(facts.overlap for facts in record.drift.layers.values())
        if least < overlap:
            yield f"the overlap with the base falls to {least:.2f}, below the limit of {overlap:g}"


def _write(record: RoutingRecord, out: str) -> None:
    from coterie.config.files import write_json
    from coterie.report.routing_page import write_routing_page

    if out.endswith(".html"):
        title = f"Routing of {record.base}" + (f" and {record.tuned}" if record.tuned else "")
        write_routing_page(record, out, title)
    else:
        write_json(out, record.to_dict())


def _routing_lines(record: RoutingRecord, out: str | None) -> Iterator[str]:
    from coterie.report.routing_page import summary_lines

    yield from summary_lines(record)
    if out is not None:
        yield f"report: {out}"
