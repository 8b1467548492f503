"""Surgery as a whole: operate, heal, measure before and after, write the result with its receipt.

The original and the result are never in memory together, except for healing: the result is written layer by
layer as the operation makes it, the original is dropped, and what is measured is the result read back.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import MANIFEST, commit_directory, require_free
from coterie.checkpoints.tensor_writer import bytes_of, write_model_files
from coterie.config import CheckpointError, ConfigError, ModelConfig
from coterie.config.files import write_json
from coterie.data.heldout import read_domains
from coterie.machine.glibc import return_freed_memory
from coterie.nn.transformer import Transformer
from coterie.proof.records import ProbeRecord, save_probes
from coterie.recipes.measure import Measure
from coterie.recipes.surgery_healing import Healing, heal
from coterie.surgery.arguments import check_arguments
from coterie.surgery.common import LayerwiseResult
from coterie.surgery.operations import OPERATIONS
from coterie.surgery.receipt import SurgeryReceipt, open_receipt

_log = logging.getLogger("coterie")
RECEIPT = "surgery.json"


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
    back equal. Nothing is written then, and `out` is as it was before.
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
    if other is not None:
        settings = _with_source_layer(settings, other)
    original = checkpoint.load_as_stored().model
    measure = Measure.of(operation.data, original.config, checkpoint.tokenizer)
    before = measure.record(original)
    _log.info("measuring the original")
    perplexity_before = measure.perplexity(original)
    planned = OPERATIONS[operation.kind](original, settings, measure.analysed or measure.sequences)
    receipt = open_receipt(
        operation.kind, operation.settings, checkpoint.name, original.config, planned.config, planned.details
    )
    receipt.lost = planned.lost
    receipt.perplexity_data = list(operation.data) if measure.documents else []
    receipt.perplexity_tokens = sum(len(document.ids) for document in measure.documents)
    receipt.perplexity["before"] = perplexity_before
    plans = [planned]
    del original, planned  # `_write` drops them before it reads the result back

    def write(folder: Path) -> None:
        _write(folder, checkpoint, operation, plans, measure, before, receipt)

    commit_directory(out, write, {"parent": checkpoint.name, "surgery": receipt.operation})
    return receipt


def _with_source_layer(settings: Mapping[str, Any], other: Checkpoint) -> dict[str, Any]:
    """The settings of `swap-expert` with the layer that holds the expert instead of its checkpoint."""
    rest = {name: value for name, value in settings.items() if name not in ("other", "other_layer")}
    layer = settings["layer"] if settings.get("other_layer") is None else settings["other_layer"]
    return rest | {"source": other.load_as_stored().model.blocks[layer].ffn}


def _write(
    folder: Path,
    checkpoint: Checkpoint,
    operation: Operation,
    plans: list[LayerwiseResult],
    measure: Measure,
    before: ProbeRecord,
    receipt: SurgeryReceipt,
) -> None:
    """Write the result into `folder`, read it back, measure it, and write its receipt there."""
    _log.info(f"operating: {operation.kind}")
    written = _Written(folder, checkpoint)
    if operation.healing is None:
        planned = plans.pop()
        with torch.device("meta"):
            shape = Transformer(planned.config)
        shape.carried = planned.carried
        written.write(shape, planned)
        del planned
    else:
        # Healing trains in float32; its teacher stays in the type that it is stored in.
        result, teacher = plans[0].in_memory(torch.float32), plans[0].model if operation.distil else None
        plans.clear()
        receipt.function["after_surgery"] = measure.change(before, measure.record(result))
        receipt.perplexity["after"] = measure.perplexity(result)
        _log.info(f"healing: {operation.healing.steps} steps")
        documents = read_domains(
            operation.heal_data, measure.tokenizer, operation.healing.num_tokens, checkpoint.name
        )
        receipt.healing = heal(result, teacher, [document.ids for document in documents], operation.healing)
        written.write(result)
        del result, teacher
    function, stage = ("after_surgery", "after") if receipt.healing is None else ("after_healing", "healed")
    _log.info("measuring the result")
    return_freed_memory()
    result = written.read_back()
    answers = measure.record(result)
    save_probes(folder, answers)
    receipt.function[function] = measure.change(before, answers)
    receipt.perplexity[stage] = measure.perplexity(result)
    write_json(folder / RECEIPT, receipt.to_dict())


@dataclass
class _Written:
    """A result on its way to `folder`: what was written, to compare with what is read."""

    folder: Path
    source: Checkpoint
    digests: dict[str, str] = field(default_factory=dict)
    config: ModelConfig | None = None

    def write(self, model: Transformer, planned: LayerwiseResult | None = None) -> None:
        """Write `model`, or with `planned` the tensors of a model on the meta device as they are made."""
        self.config = model.config
        write_model_files(
            self.folder,
            model,
            self.source.tokenizer,
            dtype=self.source.stored_dtype,
            generation=self.source.generation,
            tensors=None if planned is None else planned.tensors(),
            written=lambda name, tensor: self.digests.update({name: _digest(tensor)}),
        )

    def read_back(self) -> Transformer:
        """The result from the files. Errors: `CheckpointError` where a file does not hold what was made."""
        result = Checkpoint.open(self.folder)
        made, read = (
            config and config.model_copy(update={"extra": {}}) for config in (self.config, result.config)
        )
        if made != read:
            raise CheckpointError(f"{self.folder}: its config.json reads as another model; nothing was kept")
        for name, digest in self.digests.items():
            if name not in result.tensors or _digest(result.tensors.read(name)) != digest:
                raise CheckpointError(
                    f"{self.folder}: '{name}' was not written as it was made; nothing was kept"
                )
        return result.load_as_stored().model


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(bytes_of(tensor)).hexdigest()
