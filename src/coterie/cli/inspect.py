"""`coterie inspect`: a model's facts from its config, and from the small files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coterie.checkpoints.commit import MANIFEST
from coterie.checkpoints.directory import locate, open_tensors, read_config, read_json
from coterie.config import CoterieError, ModelConfig
from coterie.families import config_from_hf
from coterie.plan.describe import describe
from coterie.plan.published import named_published
from coterie.proof.records import load_probes
from coterie.text.tokenizer import Tokenizer


def inspect(name: str, as_json: bool) -> None:
    """Print what a model is. Errors: `CoterieError`, one line, for a name that is none, with the nearest
    one.
    """
    facts = inspect_facts(name)
    print(json.dumps(facts) if as_json else "\n".join(lines(facts)))


def inspect_facts(name: str) -> dict[str, Any]:
    """All facts as JSON types: of a directory, a hub id (its small files are fetched) or a published name."""
    local = Path(name).expanduser()
    if not local.exists() and "/" not in name:
        published = named_published(name)
        assert published.config is not None
        facts = describe(config_from_hf(published.config, published.name))
        stated = {key: getattr(published, key) for key in ("title", "total", "active", "source", "note")}
        return {"name": published.name, "published": stated} | facts
    directory = locate(name, weights=False)
    config = read_config(directory)
    facts = {"name": name, "directory": str(directory)} | describe(config)
    raw = read_json(directory / "config.json")
    facts["quantised"] = _quantisation(raw)
    facts["tokenizer"] = _tokenizer(directory, config)
    facts["stored"] = _stored(directory)
    facts["kept_keys"] = sorted(config.extra)
    if facts["quantised"]:
        facts["oddities"].append(f"quantised on disk ({facts['quantised']}); widened when it is loaded")
    return facts


def _quantisation(raw: dict[str, Any]) -> str | None:
    quantisation = raw.get("quantization_config")
    return str(quantisation.get("quant_method", "unnamed")) if isinstance(quantisation, dict) else None


def _tokenizer(directory: Path, config: ModelConfig) -> dict[str, Any] | None:
    if not (directory / "tokenizer.json").is_file():
        return None
    tokenizer = Tokenizer.load(directory)
    named = {token: name for name, token in tokenizer.added_tokens.items()}
    return {
        "vocabulary": tokenizer.vocab_size,
        "special_tokens": len(tokenizer.special_ids),
        "end": named[tokenizer.eos_id],
        "stops": sorted(named[token] for token in tokenizer.stop_ids),
        "unused_rows": config.vocab_size - tokenizer.vocab_size,
        "chat_template": tokenizer.chat_template is not None,
        "sha256": tokenizer.sha256,
    }


def _stored(directory: Path) -> dict[str, Any]:
    """What lies in the directory beside the config; a problem with the weights is told, not raised."""
    manifest = read_json(directory / MANIFEST) if (directory / MANIFEST).is_file() else {}
    facts: dict[str, Any] = {
        "committed": bool(manifest),
        "parent": manifest.get("parent"),
        "step": manifest.get("step"),
    }
    try:
        probes = load_probes(directory)
        facts["probes"] = len(probes.sequences) if probes is not None else 0
        facts["bytes_by_type"] = open_tensors(directory).bytes_by_type
    except CoterieError as error:
        facts["problem"] = str(error)
    return facts


def lines(facts: dict[str, Any]) -> list[str]:
    """The facts for people."""
    counts, total = facts["parameters"], facts["parameters"]["total"]
    result = [f"{facts['name']}: {facts['architecture']}"]
    result += [f"  {line}" for line in facts["layers"]]
    result.append(
        f"parameters   total {total:,}, in experts {counts['experts']:,} ({facts['experts_share']:.0%})"
    )
    result.append(
        f"active       {counts['active_all']:,} with embedding and head, {counts['active_head']:,} with head, "
        f"{counts['active_core']:,} with neither"
    )
    beside = {
        "mtp": "for multi-token prediction",
        "vision": "of the image encoder",
        "selection_bias": "selection biases",
    }
    extra = [f"{counts[key]:,} {words}" for key, words in beside.items() if counts[key]]
    result += [f"beside them  {', '.join(extra)}; {counts['everything']:,} in all"] if extra else []
    result += _published_lines(facts.get("published"), counts)
    result.append(
        f"operations   {facts['flops_per_token'] / 1e6:,.1f} MFLOP per token (forward, context {facts['context']:,})"
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
        f"tokenizer    {tokenizer['vocabulary']:,} tokens, {tokenizer['special_tokens']} of them special, replies end "
        f"at {' or '.join(tokenizer['stops'])}, {chat}{unused}",
    ]


def _size(count: int) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def _short(count: int) -> str:
    billions = f"{count / 1e9:.2f}".rstrip("0").rstrip(".")
    return f"{billions}B"
