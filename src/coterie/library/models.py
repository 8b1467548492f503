"""What can be done with a model on this machine, from its small files and headers; weights are not read."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coterie.adapters.apply import base_of, is_variant
from coterie.adapters.trainable import held_dtype
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.running_dtype import AUTO, running_dtype
from coterie.config import CheckpointError, CoterieError, ModelConfig, Precision
from coterie.config.methods import tuning_method
from coterie.families import family, quantisation_of
from coterie.library.places import FoundModel
from coterie.machine.device import choose_device
from coterie.machine.system import memory_bytes
from coterie.plan.counts import count_parameters, memory
from coterie.plan.tuning import PROCESS_BYTES, TuneSettings, fitting
from coterie.report.words import size

_CONTEXT = 4096  # tokens of the conversation that serving must have room for


@dataclass(frozen=True)
class Use:
    """Whether a model can be used in some way. `words`: why not, or what it takes."""

    possible: bool
    words: str = ""

    def __str__(self) -> str:
        return "yes" if self.possible else "no"


@dataclass(frozen=True)
class ModelEntry:
    """One model of the list.

    `family`: None for what is no model that is read here. `total`, `active`: parameters. `stored`: types on
    disk, or the method that it is quantised by.
    """

    name: str
    path: str | None
    size: int
    commit: str
    family: str | None
    total: int | None
    active: int | None
    stored: str
    load: Use
    tune: Use
    serve: Use

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def memory_limit() -> int:
    """Bytes that a model may take here: of the GPU that `auto` chooses, or else of the machine."""
    import torch

    device = choose_device("auto")
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else memory_bytes()


def examine(place: FoundModel, limit: int) -> ModelEntry:
    """The facts of one model. `limit`: bytes of memory. No damage raises: it is the reason in the entry."""
    try:
        if place.path is None:
            raise CheckpointError(place.problem)
        if is_variant(place.path):
            return _variant(place, place.path)
        return _model(place, Checkpoint.open(place.path), limit)
    except Exception as error:  # one damaged entry must not hide the others, whatever its damage raises
        reason = _short(error, place.path)
        return _entry(place, None, None, "", *[Use(False, reason)] * 3)


def _model(place: FoundModel, checkpoint: Checkpoint, limit: int) -> ModelEntry:
    config = checkpoint.config
    try:
        stored = _stored(checkpoint)
        missing = _missing(checkpoint)
        if missing is not None:
            raise CheckpointError(f"the weights lack the tensor '{missing}'; fetch them again")
        kept = checkpoint.kept_dtype
        runs_in = running_dtype(AUTO, checkpoint, choose_device(), Precision()).dtype.itemsize
        tokenizer = checkpoint.tokenizer
    except CoterieError as error:
        return _entry(place, config, config.family, "", *[Use(False, _short(error, place.path))] * 3)
    load = _load(config, runs_in, limit)
    if tokenizer is None:
        without = Use(False, "has no tokenizer.json")
        return _entry(place, config, config.family, stored, load, without, without)
    held = held_dtype(tuning_method("lora"), kept).itemsize
    serve = _load(config, runs_in, limit, min(_CONTEXT, config.max_positions))
    if serve.possible and tokenizer.chat_template is None:
        serve = Use(True, ", ".join(filter(None, (serve.words, "no chat template"))))
    return _entry(place, config, config.family, stored, load, _tune(config, held, limit), serve)


def _load(config: ModelConfig, runs_in: int, limit: int, context: int = 0) -> Use:
    """Whether weights, and the cache of one conversation of `context` tokens, fit in the memory.

    `runs_in`: bytes of a number in the type that it runs in by default.
    """
    for itemsize, words in ((runs_in, ""), (2, "--dtype bfloat16")):
        needed = PROCESS_BYTES + memory(config, "inference", itemsize, context).total
        if needed <= limit:
            return Use(True, words)
    return Use(False, f"needs {size(needed)} as bfloat16, and there are {size(limit)}")


def _tune(config: ModelConfig, held: int, limit: int) -> Use:
    """Whether LoRA fits in the memory: at its default settings, or with the settings that `words` names."""
    try:
        plans = fitting(config, TuneSettings(dtype_bytes=max(2, held)), limit)
    except CoterieError as error:
        return Use(False, str(error))
    last = plans[-1][1]
    if last.peak > limit:
        return Use(False, f"needs {size(last.peak)} at least, and there are {size(limit)}")
    return Use(True, ", ".join(words for words, _ in plans[1:]))


def _missing(checkpoint: Checkpoint) -> str | None:
    """The first tensor of the model that no file holds; a head and further layers may be left out."""
    config, tensors = checkpoint.config, checkpoint.tensors
    for slot in family(config.family).slots(config):
        optional = slot.copy or slot.name == "head.weight" or slot.name.startswith("mtp.")
        if not optional and slot.disk not in tensors:
            return slot.disk
    return None


def _stored(checkpoint: Checkpoint) -> str:
    """The method of quantisation, or the types that hold most bytes."""
    quantisation = quantisation_of(checkpoint.raw_config)
    sizes = checkpoint.tensors.bytes_by_type
    kinds = sorted(sizes, key=lambda kind: -sizes[kind])[:2]
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    form = "GGUF " if checkpoint.gguf is not None else f"{method} " if method else ""
    return form + "+".join(kinds)


def _variant(place: FoundModel, path: Path) -> ModelEntry:
    needs = Use(False, f"is made for {base_of(path)}; load that with this as --adapter")
    kind = "adapter" if (path / "adapter_config.json").is_file() else "expert patch"
    return _entry(place, None, kind, "", needs, needs, needs)


def _entry(
    place: FoundModel,
    config: ModelConfig | None,
    kind: str | None,
    stored: str,
    load: Use,
    tune: Use,
    serve: Use,
) -> ModelEntry:
    counts = None if config is None else count_parameters(config)
    return ModelEntry(
        name=place.name,
        path=None if place.path is None else str(place.path),
        size=place.size,
        commit=place.commit,
        family=kind,
        total=None if counts is None else counts.total,
        active=None if counts is None else counts.active_all,
        stored=stored,
        load=load,
        tune=tune,
        serve=serve,
    )


def _short(error: Exception, path: Path | None) -> str:
    """An error without the path that the entry states anyway, and without lists of what there is."""
    text = " ".join(str(error).split()) or type(error).__name__
    if path is not None:
        text = text.replace(f"{path}/config.json: ", "").replace(f"{path}/", "").replace(f"{path}: ", "")
    # The name is the maker's, so a family with a similar one is no answer.
    return re.sub(r" \(did you mean '\w+'\?\)", "", text.split("; known: ")[0])
