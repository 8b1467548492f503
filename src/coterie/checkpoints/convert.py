"""Convert a checkpoint to another layout, type or sharding, and prove the result before it appears.

Nothing is lost silently: parts that a layout cannot carry are refused, numbers that a type rounds are
counted, parts that were dropped on request are listed. Every tensor and the answers to probes are compared.
The receipt, `receipt.json`, is in the new directory and listed in its manifest.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import MANIFEST, commit_directory, require_free
from coterie.checkpoints.quantised.settings import SIDE_FILES
from coterie.checkpoints.relabel import as_family
from coterie.checkpoints.tensor_writer import (
    SHARD_BYTES,
    as_dtype,
    disk_tensor,
    disk_tensors,
    write_model_files,
)
from coterie.config import CheckpointError, ModelConfig
from coterie.config.files import write_json
from coterie.data.progress import Ticker
from coterie.families import family, float32_parameters
from coterie.nn.transformer import Transformer
from coterie.proof.difference import SAME, Difference, difference
from coterie.proof.records import (
    ProbeRecord,
    default_sequences,
    record,
    round_parameters,
    save_probes,
)

RECEIPT = "receipt.json"
_COMPANIONS = {".json", ".jinja", ".txt", ".model", ".md"}
_WRITTEN = {"config.json", MANIFEST, RECEIPT, "model.safetensors.index.json", *SIDE_FILES}
_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class Rounding:
    """What storing in another type changed. Numbers that would become infinite are refused.

    `tensors`, `numbers`: how many changed. `relative`: the largest change of a number relative to its size,
    among those that stay normal. `vanished`: numbers that became 0.
    """

    tensors: int
    numbers: int
    relative: float
    vanished: int


@dataclass(frozen=True)
class ConversionReceipt:
    """What a conversion did.

    `mapped`: names on disk before and after, layer and expert numbers as `*`, with counts. `lossless`: every
    number of the source is unchanged in the result. `difference`: of the result, read back, from the source;
    `exact`: from the source rounded as it was stored, which must be (nearly) zero.
    """

    source: str
    out: str
    family: tuple[str, str]
    dtype: tuple[str, str]
    tensors: int
    mapped: list[dict[str, dict[str, int]]]
    changes: list[str]
    copied: list[str]
    left_out: list[str]
    rounding: Rounding
    lossless: bool
    difference: Difference
    exact: Difference

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self) | {"difference": self.difference.to_dict(), "exact": self.exact.to_dict()}


@dataclass(frozen=True)
class _Answers:
    """What the source answers as it is, and `rounded` as it is written."""

    original: ProbeRecord
    rounded: ProbeRecord


def convert_directory(
    source: str | Path | Checkpoint,
    out: Path,
    target: str | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    drop: Collection[str] = (),
    shown: Path | None = None,
) -> ConversionReceipt:
    """Write the model of `source` as `target`'s layout (None: its own) into the new directory `out`.

    `dtype` None keeps the stored type (bfloat16 for quantised weights, float32 where types are mixed).
    `shown`: the name of the result in the receipt, where `out` is a temporary one.
    Errors: `ConfigError` for a layout that cannot carry the model, `CheckpointError` for numbers too large
    for the type, a source that fails its own probes, an occupied `out`, and a result that differs from what
    was to be written.
    """
    require_free(out, "--out")
    checkpoint = Checkpoint.open(source)
    _log.info("reading %s", checkpoint.path)
    kept = checkpoint.stored_dtype
    chosen = as_dtype(dtype) if dtype is not None else checkpoint.kept_dtype
    models, changes, rounding, answers = _converted(checkpoint, kept, chosen, target, drop)
    config = models[0].config
    copied, left_out = companions(checkpoint.path)
    made: list[ConversionReceipt] = []

    def write(folder: Path) -> None:
        model = models.pop()
        changes.extend(small_files_from_keys(checkpoint, folder))
        write_model_files(folder, model, None, chosen, shard_bytes)
        for name in copied:
            shutil.copyfile(checkpoint.path / name, folder / name)
        _log.info("reading the result back")
        written = Checkpoint.open(folder)
        tensors = _same_tensors(written, model, chosen)
        del model  # one model in memory at a time
        exact, apart = _same_answers(written, checkpoint, answers, chosen)
        receipt = ConversionReceipt(
            source=checkpoint.name,
            out=str(shown or out),
            family=(checkpoint.config.family, config.family),
            dtype=("quantised" if checkpoint.quantised else _name(kept), _name(chosen)),
            tensors=tensors,
            mapped=_mapping(checkpoint.config, config),
            changes=changes,
            copied=copied,
            left_out=left_out,
            rounding=rounding,
            lossless=not rounding.tensors and not any(line.startswith("dropped") for line in changes),
            difference=apart,
            exact=exact,
        )
        write_json(folder / RECEIPT, receipt.to_dict(), indent=2)
        made.append(receipt)

    commit_directory(out, write, parent_of(checkpoint, "converted_from"))
    return made[0]


def parent_of(checkpoint: Checkpoint, key: str) -> dict[str, Any]:
    """The source's travelling manifest, and under `key` the source with its hash.

    Errors: `CheckpointError` for damage.
    """
    about = {"path": str(checkpoint.path)}
    about |= {"sha256": checkpoint.manifest["sha256"]} if checkpoint.manifest else {}
    return checkpoint.travelling_manifest() | {key: about}


def small_files_from_keys(checkpoint: Checkpoint, folder: Path) -> list[str]:
    """Write the small files of a model in GGUF, and say so; nothing for a directory, whose own are copied."""
    if checkpoint.gguf is None:
        return []
    names = ["config.json", *checkpoint.gguf.write_small_files(folder)]
    return [*checkpoint.gguf.notes, f"made from the file's keys: {', '.join(names)}"]


def companions(directory: Path) -> tuple[list[str], list[str]]:
    """Names of the small files that are copied unchanged, and of the files that are not."""
    if directory.is_file():
        return [], []
    files = [path for path in sorted(directory.iterdir()) if path.is_file() and path.name not in _WRITTEN]
    small = [
        p.name for p in files if p.suffix in _COMPANIONS or p.name.upper().startswith(("LICENSE", "NOTICE"))
    ]
    weights = {stored.name for stored in directory.glob("*.safetensors")}
    folders = [
        path.name + "/" for path in sorted(directory.iterdir()) if path.is_dir() and path.name != "probes"
    ]
    others = [p.name for p in files if p.name not in small and p.name not in weights]
    return small, others + folders


def _converted(
    checkpoint: Checkpoint, kept: torch.dtype, chosen: torch.dtype, target: str | None, drop: Collection[str]
) -> tuple[list[Transformer], list[str], Rounding, _Answers]:
    """The model to write, rounded, as the only one that holds it, what changed, and what the source answers.

    The source is rounded in place, one tensor at a time, between its two records.
    """
    loaded = checkpoint.load(kept, check=checkpoint.probes is not None)
    source, wanted = loaded.model, target or checkpoint.config.family
    model, changes = as_family(source, wanted, drop)
    if checkpoint.quantised:
        changes.append("widened from the quantised form on disk")
    changes += [f"not repeated: '{name}', which follows from other tensors" for name in loaded.ignored]
    rounding = _rounding(model, chosen)
    wide = float32_parameters(model.config)
    del model
    sequences = default_sequences(checkpoint.tokenizer, source.config.vocab_size, source.config.max_positions)
    original = expected = record(source, sequences, checkpoint.tokenizer)
    if round_parameters(source, chosen, wide):
        expected = record(source, sequences, checkpoint.tokenizer)
    return [as_family(source, wanted, drop)[0]], changes, rounding, _Answers(original, expected)


def _rounding(model: Transformer, dtype: torch.dtype) -> Rounding:
    """What storing the parameters as `dtype` changes.

    Errors: `CheckpointError` for numbers beyond its range.
    """
    tensors = numbers = vanished = 0
    relative = 0.0
    wide = float32_parameters(model.config)
    for name, parameter in model.named_parameters():
        if parameter.dtype == dtype or name in wide:
            continue
        moved_before = numbers
        for exact in parameter.detach().flatten().split(1 << 20):
            after = exact.to(dtype)
            if bool((after.isinf() & exact.isfinite()).any()):
                raise CheckpointError(
                    f"convert: '{name}' holds {float(exact.abs().max()):.4g}, too large for {_name(dtype)}; "
                    "use bfloat16"
                )
            moved = exact != after.to(exact.dtype)
            if not bool(moved.any()):
                continue
            old, new = exact[moved].double(), after[moved].double()
            numbers += old.numel()
            vanished += int((new == 0).sum())
            normal = old.abs() >= torch.finfo(dtype).tiny
            if bool(normal.any()):
                relative = max(relative, float(((old - new).abs() / old.abs())[normal].max()))
        tensors += numbers > moved_before
    return Rounding(tensors, numbers, relative, vanished)


def _same_tensors(written: Checkpoint, model: Transformer, dtype: torch.dtype) -> int:
    """The number of written tensors, each found equal to the model's after rounding, bit by bit."""
    stored = written.tensors
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    made = disk_tensors(model)
    expected = {*made, *model.carried}
    if set(stored) != expected:
        odd = min(set(stored) ^ expected)
        raise CheckpointError(
            f"convert: '{odd}' is {'not to be' if odd in stored else 'missing'} in the result"
        )
    ticker = Ticker("comparing: tensors")
    for number, name in enumerate(expected, 1):
        ticker(number, len(expected))
        wanted = disk_tensor(made[name], own, dtype) if name in made else model.carried[name]
        found = stored.read(name)
        if found.dtype != wanted.dtype or not torch.equal(found, wanted):
            raise CheckpointError(f"convert: '{name}' was not written as it is in memory; nothing was kept")
    return len(expected)


def _same_answers(
    written: Checkpoint, source: Checkpoint, answers: _Answers, dtype: torch.dtype
) -> tuple[Difference, Difference]:
    """Differences of the written model's answers from the rounded source and from the source as it is.

    Errors: `CheckpointError` unless the first is (nearly) zero.
    """
    found = record(written.load(dtype).model, answers.original.sequences, source.tokenizer)
    exact = difference(answers.rounded, found)
    if not exact.within(SAME):
        raise CheckpointError(
            f"convert: the result answers differently ({exact.mean_logprob:.3g} on average, "
            f"{exact.max_logprob:.3g} at most); nothing was kept"
        )
    save_probes(written.path, found)
    return exact, difference(answers.original, found)


def _mapping(before: ModelConfig, after: ModelConfig) -> list[dict[str, dict[str, int]]]:
    """Names on disk before and after, paired by our names, numbers as `*`; one side may be empty."""
    table: dict[str, tuple[dict[str, int], dict[str, int]]] = {}
    for side, config in enumerate((before, after)):
        for slot in family(config.family).slots(config):
            names = table.setdefault(_part(slot.name), ({}, {}))[side]
            pattern = _pattern(slot.disk)
            names[pattern] = names.get(pattern, 0) + 1
    return [{"from": old, "to": new} for old, new in table.values()]


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def _part(name: str) -> str:
    """Our name without numbers, and the same for a feed-forward and for its only expert."""
    pattern = _pattern(name)
    for part in ("gate", "up", "gate_up"):
        pattern = pattern.replace(f"ffn.{part}.weight", "ffn.in").replace(
            f"ffn.experts.{part}.weight", "ffn.in"
        )
    return pattern.replace("ffn.experts.down", "ffn.down")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
