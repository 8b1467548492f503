"""`coterie inspect`: print what a model is."""

from __future__ import annotations

from typing import Any

from coterie.cli.options import Described, Json
from coterie.cli.output import answer


def inspect(
    model: Described,
    as_json: Json = False,
) -> None:
    """Show a model's architecture, parameters, operations, cache, memory, tokenizer and oddities.

    A config.json is enough. Weights are not read; where there are any, their headers are.
    """
    from coterie.checkpoints.inspect import inspect_model

    facts = inspect_model(model)
    answer(facts, as_json, _lines(facts))


def _lines(facts: dict[str, Any]) -> list[str]:
    """The facts for people."""
    counts, total = facts["parameters"], facts["parameters"]["total"]
    result = [f"{facts['name']}: {facts['architecture']}"]
    result += [f"  {line}" for line in facts["layers"]]
    result.append(
        f"parameters   total {total:,}, in experts {counts['experts']:,} ({facts['experts_share']:.0%})"
    )
    result.append(
        f"active       {counts['active_all']:,} with embedding and head, "
        f"{counts['active_head']:,} with head, {counts['active_core']:,} with neither"
    )
    outside = {
        "mtp": "for multi-token prediction",
        "vision": "of the image encoder",
        "selection_bias": "selection biases",
    }
    extra = [f"{counts[key]:,} {words}" for key, words in outside.items() if counts[key]]
    result += [f"besides      {', '.join(extra)}; {counts['everything']:,} in all"] if extra else []
    result += _published_lines(facts.get("published"), counts)
    result.append(
        f"operations   {facts['flops_per_token'] / 1e6:,.1f} MFLOP per token "
        f"(forward, context {facts['context']:,})"
    )
    grows = facts["kv_bytes_per_token_beyond_windows"]
    growth = "" if grows == facts["kv_bytes_per_token"] else f", {grows:,} beyond every window"
    sizes = ", ".join(f"{_size(size)} at {int(length):,}" for length, size in facts["kv_bytes"].items())
    result.append(
        f"cache        {facts['kv_bytes_per_token']:,} bytes per token in bfloat16{growth}; {sizes}"
    )
    result += [f"memory       {_size(size)} {phase}" for phase, size in facts["memory_bytes"].items()]
    result += _directory_lines(facts)
    return result + [f"unlike most  {line}" for line in facts["oddities"]]


def _published_lines(published: dict[str, Any] | None, counts: dict[str, int]) -> list[str]:
    if published is None:
        return []
    kinds = {
        "active_all": "with embedding and head",
        "active_head": "with head",
        "active_core": "with neither",
    }
    nearest = min(kinds, key=lambda kind: abs(counts[kind] - published["active"]))
    note = f"; {published['note']}" if published["note"] else ""
    return [
        f"published    {_short(published['total'])} total, {_short(published['active'])} active (nearest: "
        f"{kinds[nearest]}); source: {published['source']}{note}"
    ]


def _directory_lines(facts: dict[str, Any]) -> list[str]:
    if "directory" not in facts:
        return []
    stored, tokenizer = facts["stored"], facts["tokenizer"]
    result = []
    if "problem" in stored:
        result.append(f"on disk      {stored['problem']}")
    else:
        types = ", ".join(f"{_size(size)} {kind}" for kind, size in stored["bytes_by_type"].items())
        probes = f"; {stored['probes']} probes" if stored["probes"] else "; no probes"
        result.append(
            f"on disk      {types}{probes}{'' if stored['committed'] else '; no manifest of coterie'}"
        )
    if tokenizer is None:
        return [*result, "tokenizer    none"]
    chat = "with a chat template" if tokenizer["chat_template"] else "no chat template"
    unused = (
        f", {tokenizer['unused_rows']:,} rows of the embedding unused" if tokenizer["unused_rows"] else ""
    )
    return [
        *result,
        f"tokenizer    {tokenizer['vocabulary']:,} tokens, {tokenizer['special_tokens']} of them special, "
        f"replies end at {' or '.join(tokenizer['stops'])}, {chat}{unused}",
    ]


def _size(count: int) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def _short(count: int) -> str:
    billions = f"{count / 1e9:.2f}".rstrip("0").rstrip(".")
    return f"{billions}B"
