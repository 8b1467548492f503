"""Export a checkpoint as one GGUF file for llama.cpp and Ollama: write tensor by tensor, read back, compare.

Nothing is lost silently. A model that llama.cpp cannot run is refused before a byte is written. The receipt
lists what was stored in another type than asked for, what was left out, and what llama.cpp computes
differently.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.gguf_file.tensors import GgufTensors
from coterie.config import CheckpointError, ConfigError
from coterie.config.temporaries import replace_with, temporary
from coterie.gguf.architectures import Description, describe
from coterie.gguf.blocks import FILE_TYPES, Choice, allowed_error, choose, pack, row_bytes
from coterie.gguf.mixes import MixFacts
from coterie.gguf.modelfile import modelfile
from coterie.gguf.parameters import ParameterSource
from coterie.gguf.tensors import Mapped, map_tensors
from coterie.gguf.vocabulary import vocabulary

_log = logging.getLogger("coterie")


@dataclass(frozen=True)
class KeptTensors:
    """Tensors stored in another type than asked for, and why."""

    type: str
    reason: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class PackingError:
    """Error of all tensors of one type: largest absolute, and root mean square relative to the numbers'."""

    largest: float
    relative_rms: float


@dataclass(frozen=True)
class GgufReceipt:
    """What was written and how it was checked.

    `modelfile`: for Ollama, in the directory of `file`. `tensors`: number by type. `mapped`: tensor in the
    file -> the parameter it holds and how it was changed. `errors`: by type, found by reading the file back
    (all `checked` tensors). `left_out`: prefixes of names that are not in the file. `differences`: what
    llama.cpp computes or tokenises differently.
    """

    file: str
    modelfile: str
    bytes: int
    architecture: str
    quant: str
    pre_tokenizer: str
    tensors: dict[str, int]
    mapped: dict[str, str]
    kept: tuple[KeptTensors, ...]
    errors: dict[str, PackingError]
    checked: int
    left_out: tuple[str, ...]
    differences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The receipt as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class _File:
    """What is to be written: its architecture, every key, every tensor with its type."""

    source: ParameterSource
    described: Description
    pre_tokenizer: str
    differences: tuple[str, ...]
    keys: dict[str, Any]
    plan: list[tuple[Mapped, Choice]]


def export_gguf(source: str | Path | Checkpoint, out: Path, quant: str) -> GgufReceipt:
    """Write a checkpoint to the file `out` in `quant` (a key of `FILE_TYPES`) and check it.

    The logger `coterie` receives the progress. The file appears only when it is complete and right.
    Errors: `ConfigError` for an unknown `quant` and for models that llama.cpp cannot run; `CheckpointError`
    for tensors, tokenizers and numbers that the file cannot hold, and when the file reads back differently.
    """
    out = Path(out)
    if out.is_dir():
        raise CheckpointError(
            f"{out}: is a directory; give the name of the file to write, such as model.gguf"
        )
    checkpoint = Checkpoint.open(source)
    file = _prepare(checkpoint, quant)
    for name in file.source.left_out:
        _log.info("left out: %s", name)
    for line in file.differences:
        _log.info("differs: %s", line)
    modelfile_path = out.with_suffix(".Modelfile")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary(out) as part, temporary(modelfile_path) as second:
            _write(part, file)
            _log.info("reading %d tensors back", len(file.plan))
            errors = _check(part, file)
            text = modelfile(checkpoint, out.name, file.source.config.max_positions)
            second.write_text(text, encoding="utf-8")
            size = part.stat().st_size
            replace_with(part, out)
            replace_with(second, modelfile_path)
    except OSError as error:
        raise CheckpointError(
            f"{out}: was not written ({error.strerror}); make room or choose another place"
        ) from None
    return _receipt(file, out, modelfile_path, size, quant, errors)


def _receipt(
    file: _File, out: Path, modelfile_path: Path, size: int, quant: str, errors: dict[str, PackingError]
) -> GgufReceipt:
    return GgufReceipt(
        file=str(out),
        modelfile=str(modelfile_path),
        bytes=size,
        architecture=file.described.target.name,
        quant=quant,
        pre_tokenizer=file.pre_tokenizer,
        tensors=_count(choice.type for _, choice in file.plan),
        mapped={
            tensor.name: tensor.origin + (f" ({tensor.note})" if tensor.note else "")
            for tensor, _ in file.plan
        },
        kept=_kept(file.plan),
        errors=errors,
        checked=len(file.plan),
        left_out=tuple(file.source.left_out),
        differences=file.differences,
    )


def _prepare(checkpoint: Checkpoint, quant: str) -> _File:
    _require_package()
    if quant not in FILE_TYPES:
        raise ConfigError(f"quant '{quant}' is not known; use one of {', '.join(FILE_TYPES)}")
    checkpoint.verify()
    source = ParameterSource(checkpoint)
    described = describe(source.config)
    if quant == "mxfp4" and not source.config.is_moe:
        raise CheckpointError(
            f"{checkpoint.path}: mxfp4 is a format for experts and this model has none; use q4_0 or q8_0"
        )
    tokens = vocabulary(checkpoint, source.config.vocab_size, described.target.pieces)
    tensors = map_tensors(source, described.target)
    facts = MixFacts.of(source.config, tied=all(tensor.name != "output.weight" for tensor in tensors))
    plan = [(tensor, choose(tensor.name, tensor.shape, quant, facts)) for tensor in tensors]
    keys = {
        "general.type": "model",
        "general.name": checkpoint.path.resolve().name.removesuffix(".gguf"),
        "general.file_type": FILE_TYPES[quant],
        "general.quantization_version": 2,
    }
    keys |= {f"{described.target.name}.{key}": value for key, value in described.keys.items()}
    return _File(
        source, described, tokens.pre, described.differences + tokens.differences, keys | tokens.keys, plan
    )


def _require_package() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise CheckpointError(
            "writing GGUF needs the package 'gguf'; install it with: pip install 'coterie[gguf]'"
        ) from None


def _count(types: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind in types:
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items()))


def _kept(plan: list[tuple[Mapped, Choice]]) -> tuple[KeptTensors, ...]:
    groups: dict[tuple[str, str], list[str]] = {}
    for tensor, choice in plan:
        if choice.reason:
            groups.setdefault((choice.type, choice.reason), []).append(tensor.name)
    return tuple(KeptTensors(kind, reason, tuple(names)) for (kind, reason), names in groups.items())


def _write(path: Path, to_write: _File) -> None:
    import gguf

    plan = to_write.plan
    writer = gguf.GGUFWriter(path, to_write.described.target.name)
    for key, value in to_write.keys.items():
        if isinstance(value, list):
            kind = gguf.GGUFValueType.INT32 if type(value[0]) is int else _value_type(value[0])
            writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, sub_type=kind)
        else:
            writer.add_key_value(key, value, _value_type(value))
    for tensor, choice in plan:
        rows = int(np.prod(tensor.shape[:-1], dtype=np.int64))
        nbytes = rows * row_bytes(tensor.shape[-1], choice.type)
        kind = gguf.GGMLQuantizationType[choice.type]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), nbytes, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        file = (writer.fout or [])[0]
        writer.write_padding(file, file.tell())
        for number, (tensor, choice) in enumerate(plan, 1):
            written = 0
            for rows_RI in tensor.rows():
                written += file.write(pack(rows_RI, choice.type, tensor.name).data)
            writer.write_padding(file, written)
            if number % 100 == 0 or number == len(plan):
                _log.info("wrote %d of %d tensors", number, len(plan))
        file.flush()
        os.fsync(file.fileno())
    finally:
        writer.close()


def _is_real(value: Any) -> bool:
    return isinstance(value[0] if isinstance(value, list) else value, float)


def _value_type(value: Any) -> Any:
    import gguf

    kinds = gguf.GGUFValueType
    if isinstance(value, bool):
        return kinds.BOOL
    if isinstance(value, int):
        return kinds.UINT32
    return kinds.FLOAT32 if isinstance(value, float) else kinds.STRING


def _check(path: Path, written: _File) -> dict[str, PackingError]:
    """Compare every key and every number of the file with what was meant; the errors found, by type."""
    stored = GgufTensors.open(path)
    for key, value in written.keys.items():
        found = stored.keys.get(key)
        same = (
            found is not None and np.array_equal(found, np.asarray(value, np.float32))
            if _is_real(value)
            else found == value
        )
        if not same:
            raise CheckpointError(
                f"{path}: key '{key}' reads back as {str(found)[:60]} instead of {str(value)[:60]}"
            )
    sums: dict[str, list[float]] = {}
    for tensor, choice in written.plan:
        if (
            tensor.name not in stored
            or stored.shape(tensor.name) != tensor.shape
            or stored.type(tensor.name) != choice.type
        ):
            raise CheckpointError(f"{path}: tensor '{tensor.name}' reads back in another shape or type")
        _compare(path, tensor, choice, stored, sums.setdefault(choice.type, [0.0, 0.0, 0.0]))
    more = set(stored) - {tensor.name for tensor, _ in written.plan}
    if more:
        raise CheckpointError(f"{path}: holds the tensor '{min(more)}', which was not written")
    return {
        kind: PackingError(worst, (error / max(size, 1e-300)) ** 0.5)
        for kind, (worst, error, size) in sorted(sums.items())
    }


def _compare(path: Path, tensor: Mapped, choice: Choice, stored: GgufTensors, sums: list[float]) -> None:
    """Compare one tensor with the source; `sums` (largest error, squared errors, squares) is updated."""
    at = 0
    for wanted_RI in tensor.rows():
        found_RI = stored.read_rows(tensor.name, at, at + len(wanted_RI)).float().numpy()
        at += len(wanted_RI)
        error_RI = np.abs(found_RI.astype(np.float64) - wanted_RI)
        if not (error_RI <= allowed_error(wanted_RI, choice.type)).all():
            off = f"off by {error_RI.max():.3g}"
            raise CheckpointError(f"'{tensor.name}' is beyond what {choice.type} can hold ({off}); use bf16")
        sums[0] = max(sums[0], float(error_RI.max(initial=0.0)))
        sums[1] += float((error_RI**2).sum())
        sums[2] += float((wanted_RI.astype(np.float64) ** 2).sum())
    if at * tensor.shape[-1] != math.prod(tensor.shape):
        raise CheckpointError(f"{path}: tensor '{tensor.name}' is longer than it should be")
