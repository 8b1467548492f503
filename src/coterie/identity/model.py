"""Which model this is, in digests: what was loaded, and what a conversation with it goes through."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import ConfigError
from coterie.evidence.canonical import digest_bytes
from coterie.families import config_to_hf
from coterie.identity.files import weights_files
from coterie.identity.tensors import FURTHER, weight_tree
from coterie.identity.tree import WeightTree
from coterie.nn.transformer import Transformer
from coterie.results.evaluation import ModelIdentity
from coterie.text.template_sources import DEFAULT
from coterie.text.tokenizer import Tokenizer

LINEAGE = "lineage"  # of a manifest: the tensor roots of the models it was made from, the nearest first
# What a config.json says about the files and the program that wrote it, not about the model.
_ABOUT_FILES = ("dtype", "torch_dtype", "transformers_version", "_name_or_path", "quantization_config")


def model_identity(
    model: Transformer,
    tokenizer: Tokenizer | None,
    checkpoint: Checkpoint | None,
    name: str,
    tree: WeightTree | None = None,
    files: bool = True,
    lineage: Sequence[str] = (),
) -> ModelIdentity:
    """The identity of a loaded model, from its tensors in memory.

    `tree`: its weight tree, if it was computed already. `files`: whether to hash the checkpoint's files too.
    `lineage`: tensor roots of models that it is known to be made from, the nearest first.
    Errors: `CheckpointError` for files that cannot be read.
    """
    tree = weight_tree(model, checkpoint) if tree is None else tree
    config = _published(model) if checkpoint is None else checkpoint.raw_config
    return _identity(
        name, tree, config, tokenizer, checkpoint, files, _lineage(model, checkpoint, tree, lineage)
    )


def stored_identity(checkpoint: Checkpoint, name: str, tree: WeightTree) -> ModelIdentity:
    """The identity of a checkpoint's files, without building the model. `tree`: `stored_weight_tree`'s.

    Errors: as `model_identity`.
    """
    lineage = _lineage(None, checkpoint, tree, ())
    return _identity(name, tree, checkpoint.raw_config, checkpoint.tokenizer, checkpoint, True, lineage)


def _identity(
    name: str,
    tree: WeightTree,
    config: Mapping[str, Any] | None,
    tokenizer: Tokenizer | None,
    checkpoint: Checkpoint | None,
    files: bool,
    lineage: list[str],
) -> ModelIdentity:
    generation = {} if checkpoint is None else checkpoint.generation_config
    return ModelIdentity(
        name=name,
        weights_tensors=tree.root,
        weights_files=weights_files(checkpoint) if files and checkpoint is not None else None,
        config=None if config is None else _digest(_of_model(config)),
        tokenizer=None if tokenizer is None else tokenizer_digest(tokenizer),
        chat_template=None if tokenizer is None else template_digest(tokenizer),
        generation_config=_digest(generation) if generation else None,
        lineage=lineage,
    )


def _published(model: Transformer) -> dict[str, Any] | None:
    """The config.json that a model would have; None for one that no family can carry."""
    try:
        return config_to_hf(model.config)
    except ConfigError:
        return None


def _of_model(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _ABOUT_FILES}


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Digest of a tokenizer's content and of its special tokens, as `sha256:...`."""
    special = {"named": tokenizer.named_tokens, "start": list(tokenizer.start_ids)}
    return _digest({"tokenizer.json": tokenizer.sha256} | special)


def template_digest(tokenizer: Tokenizer) -> str | None:
    """Digest of the chat template's text, or of all where there are several; None where there is none."""
    named = tokenizer.templates.named
    if set(named) == {DEFAULT}:
        return digest_bytes(named[DEFAULT].encode())
    return _digest({key: str(text) for key, text in named.items()}) if named else None


def _lineage(
    model: Transformer | None, checkpoint: Checkpoint | None, tree: WeightTree, known: Sequence[str]
) -> list[str]:
    """The roots of the models that this one was made from: its base in memory, then those of its manifest."""
    found = list(known)
    if model is not None and model.adapter is not None and "full" not in model.adapter.train.values():
        base = [leaf for leaf in tree.leaves.values() if not leaf.name.startswith(FURTHER)]
        found.append(WeightTree.of(base).root)
    if checkpoint is not None:
        stated = checkpoint.manifest.get(LINEAGE)
        found += [str(root) for root in stated] if isinstance(stated, list) else []
    return list(dict.fromkeys(found))


def _digest(data: Mapping[str, Any]) -> str:
    """Of JSON that may hold numbers which the canonical form refuses, such as 10^30 for "no limit"."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return digest_bytes(text.encode("utf-8", "surrogatepass"))
