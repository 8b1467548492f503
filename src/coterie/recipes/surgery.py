"""Surgery as a whole: operate, heal, measure before and after, write the result with its receipt."""

from __future__ import annotations

import copy
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.checkpoints.checkpoint import Loaded
from coterie.checkpoints.directory import load_model, save_model
from coterie.config import CheckpointError, ConfigError, ModelConfig
from coterie.config.files import write_json
from coterie.data.heldout import HeldoutDocument, read_domains, spread
from coterie.evaluate.bits import score_documents
from coterie.families import family
from coterie.nn.transformer import Transformer
from coterie.plan.counts import count_parameters, memory
from coterie.proof.difference import difference
from coterie.proof.records import ProbeRecord, default_sequences, record
from coterie.recipes.surgery_healing import Healing, heal
from coterie.surgery.densify import densify
from coterie.surgery.grow import add_experts, swap_expert
from coterie.surgery.receipt import BeforeAfter, FunctionChange, SurgeryReceipt
from coterie.surgery.shrink import merge_experts, prune
from coterie.surgery.upcycle import upcycle

_log = logging.getLogger("coterie")
RECEIPT = "surgery.json"
CALIBRATION_TOKENS = 20_000
EVALUATION_TOKENS = 20_000
Sequences = list[list[int]]
Details = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """What is asked for: `kind` with its own `settings`, texts to look at and to measure on, and healing."""

    kind: str
    model: str
    out: str
    settings: Mapping[str, Any]
    data: Sequence[str] = ("primer",)
    heal_data: Sequence[str] = ()
    healing: Healing | None = None
    distil: bool = True


def operate(operation: Operation) -> SurgeryReceipt:
    """Do it and return the receipt, which is also `surgery.json` in the result.

    Errors: `ConfigError` for what cannot be done; `CheckpointError` when the written result does not read
    back equal (nothing is left then).
    """
    _check_out(operation)
    loaded = load_model(operation.model)
    looked_at, measured = _texts(operation.data, loaded)
    sequences = default_sequences(
        loaded.tokenizer, loaded.model.config.vocab_size, loaded.model.config.max_positions
    )
    before = record(loaded.model, sequences)
    _log.info(f"operating: {operation.kind}")
    result, details = _KINDS[operation.kind](loaded.model, operation.settings, looked_at or sequences)
    receipt = _receipt(operation, loaded.model.config, result.config, details)
    receipt.function["after_surgery"] = _function(before, record(result, sequences))
    receipt.perplexity_data = list(operation.data) if measured else []
    receipt.perplexity = {
        "before": _perplexity(loaded.model, measured, loaded),
        "after": _perplexity(result, measured, loaded),
    }
    if operation.healing is not None:
        _log.info(f"healing: {operation.healing.steps} steps")
        documents = read_domains(
            operation.heal_data, loaded.tokenizer, _heal_tokens(operation.healing), operation.model
        )
        teacher = loaded.model if operation.distil else None
        receipt.healing = heal(result, teacher, [document.ids for document in documents], operation.healing)
        receipt.function["after_healing"] = _function(before, record(result, sequences))
        receipt.perplexity["healed"] = _perplexity(result, measured, loaded)
    _write(operation, loaded, result, receipt)
    return receipt


def _check_out(operation: Operation) -> None:
    if Path(operation.out).resolve() == Path(operation.model).resolve():
        raise ConfigError("surgery: -o is the model itself; write the result to another directory")
    if operation.healing is not None and not operation.heal_data:
        raise ConfigError("surgery: --steps heals on text; give it with --heal")


def _heal_tokens(healing: Healing) -> int:
    return min(20_000_000, healing.steps * healing.batch_rows * healing.row_length + healing.row_length)


def _texts(data: Sequence[str], loaded: Loaded) -> tuple[Sequences, list[HeldoutDocument]]:
    """Token ids to look at, and other documents to measure on (the same ones where there are fewer than
    two).
    """
    if loaded.tokenizer is None:
        return [], []
    documents = read_domains(data, loaded.tokenizer, CALIBRATION_TOKENS + EVALUATION_TOKENS)
    looked_at = documents[::2] if len(documents) > 1 else documents
    measured = documents[1::2] if len(documents) > 1 else documents
    calibration = [document.ids.tolist() for document in spread(looked_at, CALIBRATION_TOKENS)]
    return calibration, spread(measured, EVALUATION_TOKENS)


def _perplexity(model: Transformer, documents: Sequence[HeldoutDocument], loaded: Loaded) -> float | None:
    if not documents or loaded.tokenizer is None:
        return None
    scores = score_documents(model, documents, loaded.tokenizer.eos_id, min(512, model.config.max_positions))
    return math.exp(min(700.0, sum(s.nats for s in scores) / sum(s.num_tokens for s in scores)))


def _function(before: ProbeRecord, after: ProbeRecord) -> FunctionChange:
    found = difference(before, after)
    return FunctionChange(found.max_logprob, found.mean_logprob, found.kl, found.top1)


def _receipt(
    operation: Operation, before: ModelConfig, after: ModelConfig, details: Details
) -> SurgeryReceipt:
    def counts(config: ModelConfig) -> dict[str, int]:
        found = count_parameters(config)
        return {name: getattr(found, name) for name in ("total", "active_all", "active_core", "experts")}

    mtp_lost = before.num_mtp_layers and not after.num_mtp_layers
    return SurgeryReceipt(
        operation=operation.kind,
        settings=dict(operation.settings),
        source=operation.model,
        family=BeforeAfter(before.family, after.family),
        parameters=BeforeAfter(counts(before), counts(after)),
        memory=BeforeAfter(memory(before, "inference").total, memory(after, "inference").total),
        lost=["the layers for multi-token prediction"] if mtp_lost else [],
        loads_in={
            "coterie": "read back with the same answers",
            "transformers": f"{family(after.family).architecture} (model_type {after.family})",
            "others": f"whatever reads {after.family} checkpoints: every layer has as many experts as "
            "config.json says",
        },
        details=details,
    )


def _write(operation: Operation, loaded: Loaded, result: Transformer, receipt: SurgeryReceipt) -> None:
    dtype = loaded.checkpoint.stored_dtype
    out = Path(operation.out)
    extra = {"parent": operation.model, "surgery": operation.kind}
    save_model(out, result, loaded.tokenizer, dtype=dtype, extra=extra, probes=True)
    try:
        load_model(out, check=True)
    except CheckpointError:
        shutil.rmtree(out)
        raise
    write_json(out / RECEIPT, receipt.to_dict())


def _upcycle(
    model: Transformer, settings: Mapping[str, Any], sequences: Sequences
) -> tuple[Transformer, Details]:
    return upcycle(model, **settings), {}


def _prune(
    model: Transformer, settings: Mapping[str, Any], sequences: Sequences
) -> tuple[Transformer, Details]:
    result, kept = prune(model, sequences=sequences, **settings)
    return result, {"kept": {str(layer): experts for layer, experts in kept.items()}}


def _merge(
    model: Transformer, settings: Mapping[str, Any], sequences: Sequences
) -> tuple[Transformer, Details]:
    result, clusters = merge_experts(model, sequences=sequences, **settings)
    return result, {"clusters": {str(layer): found for layer, found in clusters.items()}}


def _densify(
    model: Transformer, settings: Mapping[str, Any], sequences: Sequences
) -> tuple[Transformer, Details]:
    return densify(model, sequences, **settings), {}


def _add(
    model: Transformer, settings: Mapping[str, Any], sequences: Sequences
) -> tuple[Transformer, Details]:
    return add_experts(model, sequences, **settings), {}


def _swap(
    model: Transformer, settings: Mapping[str, Any], sequences: Sequences
) -> tuple[Transformer, Details]:
    given = copy.copy(dict(settings))
    other = load_model(given.pop("other")).model
    return swap_expert(model, other, **given), {}


_KINDS: dict[str, Callable[[Transformer, Mapping[str, Any], Sequences], tuple[Transformer, Details]]] = {
    "upcycle": _upcycle,
    "prune": _prune,
    "merge-experts": _merge,
    "densify": _densify,
    "add-expert": _add,
    "swap-expert": _swap,
}
