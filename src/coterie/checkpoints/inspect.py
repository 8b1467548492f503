"""What a model is, from its config and the small files next to it. No weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import CoterieError, ModelConfig
from coterie.families import config_from_hf
from coterie.plan.describe import describe
from coterie.plan.published import Published, named_published


def config_of(name: str) -> ModelConfig:
    """The config of a directory, a hub id or a published name such as `llama-4-scout`.

    Errors: `CoterieError` for a name that is none of them, with the nearest published one.
    """
    published = _published(name)
    if published is not None:
        return _config(published)
    return Checkpoint.open(name, weights=False).config


def inspect_model(name: str) -> dict[str, Any]:
    """All facts about a directory, a hub id or a published name, as JSON types.

    Of a hub id only the small files are fetched. The keys are those of `plan.describe.describe`. A published
    name adds what its maker states (`published`); a directory adds `quantised`, `tokenizer`, `stored` and
    `kept_keys`.

    Errors: `CoterieError` for a name that is none of them. Damaged weights raise nothing: `stored` then has a
    `problem`.
    """
    published = _published(name)
    if published is not None:
        stated = {key: getattr(published, key) for key in ("title", "total", "active", "source", "note")}
        return {"name": published.name, "published": stated} | describe(_config(published))
    checkpoint = Checkpoint.open(name, weights=False)
    config = checkpoint.config
    facts = {"name": name, "directory": str(checkpoint.path)} | describe(config)
    facts["quantised"] = quantised = _quantisation(checkpoint.raw_config)
    facts["tokenizer"] = _tokenizer(checkpoint)
    facts["stored"] = _stored(checkpoint)
    facts["kept_keys"] = sorted(config.extra)
    if quantised:
        facts["oddities"].append(f"quantised on disk ({quantised}); widened when it is loaded")
    return facts


def _published(name: str) -> Published | None:
    """The published model of that name; None for what is a path or a hub id."""
    return None if "/" in name or Path(name).expanduser().exists() else named_published(name)


def _config(published: Published) -> ModelConfig:
    assert published.config is not None
    return config_from_hf(published.config, published.name)


def _quantisation(raw: dict[str, Any]) -> str | None:
    quantisation = raw.get("quantization_config")
    return str(quantisation.get("quant_method", "unnamed")) if isinstance(quantisation, dict) else None


def _tokenizer(checkpoint: Checkpoint) -> dict[str, Any] | None:
    tokenizer = checkpoint.tokenizer
    if tokenizer is None:
        return None
    named = {token: name for name, token in tokenizer.added_tokens.items()}
    return {
        "vocabulary": tokenizer.vocab_size,
        "special_tokens": len(tokenizer.special_ids),
        "end": named[tokenizer.eos_id],
        "stops": sorted(named[token] for token in tokenizer.stop_ids),
        "unused_rows": checkpoint.config.vocab_size - tokenizer.vocab_size,
        "chat_template": tokenizer.chat_template is not None,
        "sha256": tokenizer.sha256,
    }


def _stored(checkpoint: Checkpoint) -> dict[str, Any]:
    """Manifest, probes and bytes by type; a problem with the weights is reported, not raised."""
    manifest = checkpoint.manifest
    facts: dict[str, Any] = {
        "committed": bool(manifest),
        "parent": manifest.get("parent"),
        "step": manifest.get("step"),
    }
    try:
        facts["probes"] = len(checkpoint.probes.sequences) if checkpoint.probes is not None else 0
        facts["bytes_by_type"] = checkpoint.tensors.bytes_by_type
    except CoterieError as error:
        facts["problem"] = str(error)
    return facts
