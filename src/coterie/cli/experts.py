"""`coterie profile`, `coterie select` and `coterie routing`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from coterie.checkpoints.directory import load_model
from coterie.config import ConfigError
from coterie.config.files import write_json
from coterie.data.heldout import read_domains
from coterie.evaluate.routing.compare import routing_report
from coterie.evaluate.routing.profile import Method, Profile, describe_selection
from coterie.evaluate.routing.profile import profile as run_profile
from coterie.evaluate.routing.profile import select as run_select
from coterie.evaluate.routing.trace import require_experts
from coterie.report.routing_page import summary_lines, write_routing_page
from coterie.results.routing import RoutingRecord


def profile(path: str, data: list[str], out: str, max_tokens: int, as_json: bool) -> None:
    """Write how often the texts choose each expert, and with how much weight."""
    loaded = load_model(path)
    found = run_profile(loaded.model, read_domains(data, loaded.tokenizer, max_tokens, path), path)
    found.to_file(out)
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    for layer, counts in found.counts.items():
        best = sorted(range(len(counts)), key=lambda expert: -counts[expert])[:6]
        shares = ", ".join(f"{expert} {counts[expert] / sum(counts):.0%}" for expert in best)
        print(
            f"layer {layer}: most used {shares}; {sum(count == 0 for count in counts)} of {len(counts)} unused"
        )
    print(f"{found.tokens:,} tokens, profile: {out}")


def select(
    path: str, method: Method, p: float | None, top: float | None, seed: int, out: str, as_json: bool
) -> None:
    """Write the experts that a profile says matter."""
    found = Profile.from_file(path)
    selection = run_select(found, method, p, top, seed)
    selection.to_file(out)
    facts = describe_selection(selection, found)
    if as_json:
        print(json.dumps(facts | {"out": out, **selection.to_dict()}))
        return
    for layer, chosen in selection.experts.items():
        print(f"layer {layer}: {', '.join(map(str, chosen))}")
    print(
        f"{facts['experts']} of {facts['of']} experts, {facts['token_share']:.0%} of the assignments and "
        f"{facts['gate_share']:.0%} of the gate weight; selection: {out}"
    )


def routing(
    base: str,
    tuned: str | None,
    data: list[str],
    out: str | None,
    max_tokens: int,
    limits: dict[str, float | None],
    as_json: bool,
) -> None:
    """Print and write how the models route; exit with 1 when a limit is not kept."""
    if not data:
        raise ConfigError("routing: give at least one --data FILE to route")
    if out is not None and Path(out).suffix not in (".html", ".json"):
        raise ConfigError(f"routing: -o {out}: give a name that ends in .html or .json")
    if limits["overlap"] is not None and tuned is None:
        raise ConfigError("routing: --min-overlap compares two models; give the tuned one too")
    loaded = load_model(base)
    require_experts(loaded.model, base)
    documents = read_domains(data, loaded.tokenizer, max_tokens, base)
    other = None if tuned is None else load_model(tuned).model
    found = routing_report(loaded.model, documents, other)
    broken = _broken(found, limits)
    record = found.model_copy(update={"base": base, "tuned": tuned, "broken_limits": broken})
    if out is not None and out.endswith(".html"):
        write_routing_page(record, out, f"Routing of {base}" + (f" and {tuned}" if tuned else ""))
    elif out is not None:
        write_json(out, record.to_dict())
    if as_json:
        print(json.dumps(record.to_dict()))
    else:
        print("\n".join(summary_lines(record)))
        print("\n".join(f"report: {out}" for _ in range(out is not None)), end="\n" if out else "")
    if broken:
        print("\n".join(f"coterie: routing: {line}" for line in broken), file=sys.stderr)
        raise SystemExit(1)


def _broken(record: RoutingRecord, limits: dict[str, float | None]) -> list[str]:
    """One line per limit that the last model, or the drift, does not keep."""
    layers = record.last.layers.values()
    overload = max(facts.worst_overload for facts in layers)
    dead = sum(len(facts.dead) for facts in layers) / sum(len(facts.share) for facts in layers)
    lines = []
    if limits["overload"] is not None and overload > limits["overload"]:
        lines.append(f"worst overload {overload:.2f} is above the limit of {limits['overload']:g}")
    if limits["dead"] is not None and dead > limits["dead"]:
        lines.append(f"the share of dead experts {dead:.2f} is above the limit of {limits['dead']:g}")
    if limits["overlap"] is not None and record.drift is not None:
        least = min(facts.overlap for facts in record.drift.layers.values())
        if least < limits["overlap"]:
            lines.append(
                f"the overlap with the base falls to {least:.2f}, below the limit of {limits['overlap']:g}"
            )
    return lines
