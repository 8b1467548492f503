"""Surgery as a whole: operate, heal, measure before and after, write the result with its receipt."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import MANIFEST, require_free
from coterie.checkpoints.directory import load_model, save_model
from coterie.config import CheckpointError, ConfigError
from coterie.config.files import write_json
from coterie.data.heldout import HeldoutDocument, read_domains, spread
from coterie.evaluate.bits import perplexity, score_documents
from coterie.nn.transformer import Transformer
from coterie.proof.difference import difference
from coterie.proof.records import default_sequences, record
from coterie.recipes.surgery_healing import Healing, heal
from coterie.surgery.arguments import check_arguments
from coterie.surgery.common import Sequences
from coterie.surgery.operations import OPERATIONS
from coterie.surgery.receipt import FunctionChange, SurgeryReceipt, open_receipt
from coterie.text.tokenizer import Tokenizer

_log = logging.getLogger("coterie")
RECEIPT = "surgery.json"
CALIBRATION_TOKENS = 20_000
EVALUATION_TOKENS = 20_000


@dataclass(frozen=True)
class Operation:
    """One operation of `surgery.operations` with its own `settings`.

    `data`: texts to analyse and to measure on. `heal_data`: texts to train on afterwards. `distil`: heal
    towards the original model instead of on the text alone.
    """

    kind: str
    settings: Mapping[str, Any]
    data: Sequence[str] = ("primer",)
    heal_data: Sequence[str] = ()
    healing: Healing | None = None
    distil: bool = True


def operate(source: str | Path | Checkpoint, out: str | Path, operation: Operation) -> SurgeryReceipt:
    """Write the changed model to `out`; returns the receipt, which is also `surgery.json` there.

    Errors: `ConfigError` for what cannot be done; `CheckpointError` when the written result does not read
    back equal (it is removed then).
    """
    checkpoint, out, healing = Checkpoint.open(source), Path(out), operation.healing
    if out.resolve() == checkpoint.path.resolve():
        raise ConfigError("surgery: -o is the model itself; write the result to another directory")
    if healing is not None and not operation.heal_data:
        raise ConfigError("surgery: --steps heals on text; give it with --heal")
    require_free(out, "-o", replaces=(MANIFEST, "a checkpoint of coterie"))
    settings = dict(operation.settings)
    other = Checkpoint.open(settings["other"]) if "other" in settings else None
    check_arguments(
        operation.kind, checkpoint.config, settings if other is None else settings | {"other": other.config}
    )
    if healing is not None:
        healing.check()
    checkpoint.verify()
    original, tokenizer = checkpoint.load().model, checkpoint.tokenizer
    analysed, measured = _texts(operation.data, tokenizer)
    sequences = default_sequences(tokenizer, original.config.vocab_size, original.config.max_positions)
    before = record(original, sequences)
    _log.info(f"operating: {operation.kind}")
    if other is not None:
        settings["other"] = other.load().model
    result, details = OPERATIONS[operation.kind](original, settings, analysed or sequences)
    receipt = open_receipt(
        operation.kind, operation.settings, checkpoint.name, original.config, result.config, details
    )
    receipt.perplexity_data = list(operation.data) if measured else []
    receipt.perplexity["before"] = _perplexity(original, measured, tokenizer)

    def compare(function: str, stage: str) -> None:
        found = difference(before, record(result, sequences))
        receipt.function[function] = FunctionChange(
            found.max_logprob, found.mean_logprob, found.kl, found.top1
        )
        receipt.perplexity[stage] = _perplexity(result, measured, tokenizer)

    compare("after_surgery", "after")
    if healing is not None:
        _log.info(f"healing: {healing.steps} steps")
        documents = read_domains(operation.heal_data, tokenizer, healing.num_tokens, checkpoint.name)
        teacher = original if operation.distil else None
        receipt.healing = heal(result, teacher, [document.ids for document in documents], healing)
        compare("after_healing", "healed")
    _write(checkpoint, out, result, receipt)
    return receipt


def _texts(data: Sequence[str], tokenizer: Tokenizer | None) -> tuple[Sequences, list[HeldoutDocument]]:
    """Token ids to analyse, and other documents to measure on; a single document serves both."""
    if tokenizer is None:
        return [], []
    documents = read_domains(data, tokenizer, CALIBRATION_TOKENS + EVALUATION_TOKENS)
    analysed, measured = (documents[::2], documents[1::2]) if len(documents) > 1 else (documents, documents)
    calibration = [document.ids.tolist() for document in spread(analysed, CALIBRATION_TOKENS)]
    return calibration, spread(measured, EVALUATION_TOKENS)


def _perplexity(
    model: Transformer, documents: Sequence[HeldoutDocument], tokenizer: Tokenizer | None
) -> float | None:
    if not documents or tokenizer is None:
        return None
    length = min(512, model.config.max_positions)
    return perplexity(score_documents(model, documents, tokenizer.document_start[0], length))


def _write(checkpoint: Checkpoint, out: Path, result: Transformer, receipt: SurgeryReceipt) -> None:
    extra = {"parent": checkpoint.name, "surgery": receipt.operation}
    save_model(
        out,
        result,
        checkpoint.tokenizer,
        dtype=checkpoint.stored_dtype,
        extra=extra,
        generation=checkpoint.generation,
        probes=True,
    )
    try:
        load_model(out, check=True)
    except CheckpointError:
        shutil.rmtree(out)
        raise
    write_json(out / RECEIPT, receipt.to_dict())
