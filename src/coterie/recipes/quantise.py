"""Write a model in codes as a directory that other programs read, and measure what that costs.

The original is measured and dropped, the result is written matrix by matrix, read back and measured.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.commit import commit_directory, require_free
from coterie.checkpoints.convert import RECEIPT, companions, parent_of, small_files_from_keys
from coterie.checkpoints.inspect import stored_classes
from coterie.checkpoints.locate import read_json, weight_files
from coterie.checkpoints.stored_tensors import StoredTensors
from coterie.checkpoints.tensor_reader import FileBytes, read_header
from coterie.checkpoints.tensor_writer import bytes_of, write_shards
from coterie.config import CheckpointError, ConfigError, Precision
from coterie.config.files import write_json
from coterie.nn.transformer import Transformer
from coterie.proof.records import ProbeRecord, save_probes
from coterie.recipes.measure import Measure
from coterie.recipes.quantise_calibrated import calibrate
from coterie.recipes.quantise_files import FilesToWrite, plan_files
from coterie.surgery.receipt import BeforeAfter, FunctionChange

_log = logging.getLogger("coterie")
_PIECE = 512  # tokens of a text that are read at once for calibration


@dataclass
class QuantisationReceipt:
    """What quantising did; `receipt.json` of the result.

    `quant`: the table of forms. `classes`: class of weights -> the forms on disk. `bytes`: of the weights on
    disk. `rounding`: how many matrices are in codes and by how much that changed their numbers (root mean
    square, relative), over samples. `function`: how far the answers to the probes are from the original's
    (`kl` over the likeliest 20 tokens and one bucket for all others). `perplexity` of `perplexity_tokens`
    tokens of `perplexity_data`. Both are None where they were not measured. `calibration`: the texts, their
    tokens, how many matrices they decided the codes of, and how many of these no token reached.
    """

    source: str
    out: str
    family: str
    quant: str
    classes: dict[str, list[str]]
    bytes: BeforeAfter[int]
    rounding: dict[str, float]
    loads_in: dict[str, str]
    copied: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    function: FunctionChange | None = None
    perplexity: BeforeAfter[float | None] | None = None
    perplexity_data: list[str] = field(default_factory=list)
    perplexity_tokens: int = 0
    calibration: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {"format": 1} | asdict(self)


def quantise_checkpoint(
    source: str | Path | Checkpoint,
    out: str | Path,
    precision: Precision,
    data: Sequence[str] = ("primer",),
    outputs: bool = True,
    calibration: Sequence[str] = (),
) -> QuantisationReceipt:
    """Write the model of `source` in the forms of `precision` to the new directory `out`.

    `data`: texts to measure perplexity on. `outputs`: measure it, and the answers to the probes, before and
    after, which needs memory for the model as it is stored. `calibration`: texts whose activations decide
    how the matrices are rounded (`calibrate`); none: each number is rounded by itself. The layout is that of
    compressed-tensors.
    Errors: `ConfigError` for what cannot be written so, `CheckpointError` for a source that is quantised
    already and for a result that does not read back as it was made; `out` does not exist then.
    """
    out = Path(out)
    require_free(out, "-o")
    checkpoint = Checkpoint.open(source)
    if checkpoint.quantised:
        raise CheckpointError(
            f"{checkpoint.path}: is stored quantised ({checkpoint.stored_forms}); give the original, so that "
            "nothing is rounded twice"
        )
    planned = plan_files(checkpoint, precision)
    checkpoint.verify()
    measured: _Measured | None = None
    if outputs:
        _log.info("measuring the original")
        measured = _Measured.of(checkpoint, data)
    receipt = _opened(checkpoint, out, precision, planned)

    if calibration:
        _calibrate(checkpoint, planned, receipt, calibration)

    def write(folder: Path) -> None:
        _write(folder, checkpoint, planned, receipt)
        result = Checkpoint.open(folder)
        receipt.classes = stored_classes(result.config, _stored(result))
        receipt.bytes = BeforeAfter(receipt.bytes.before, _bytes(result))
        if measured is not None:
            _log.info("measuring the result")
            measured.compare(_held(result, precision), receipt, folder)
        write_json(folder / RECEIPT, receipt.to_dict(), indent=2)

    commit_directory(out, write, parent_of(checkpoint, "quantised_from"))
    return receipt


def _opened(
    checkpoint: Checkpoint, out: Path, precision: Precision, planned: FilesToWrite
) -> QuantisationReceipt:
    """The receipt, as far as it is known before anything is written."""
    copied, left_out = companions(checkpoint.path)
    limit = "" if planned.one_dense_form else "; not with dequantize=True, which knows one dense form"
    return QuantisationReceipt(
        source=checkpoint.name,
        out=str(out),
        family=checkpoint.config.family,
        quant=str(precision),
        classes={},
        bytes=BeforeAfter(_bytes(checkpoint), 0),
        rounding={},
        loads_in={
            "coterie": "the codes are held as they are; --quant none widens them",
            "transformers": f"with the package compressed-tensors{limit}",
            "vLLM": "compressed-tensors, weights only; its kernels take blocks of 32, 64 and 128",
        },
        copied=copied,
        left_out=[*left_out, *planned.left_out],
    )


def _calibrate(
    checkpoint: Checkpoint, planned: FilesToWrite, receipt: QuantisationReceipt, data: Sequence[str]
) -> None:
    """Make the codes of all blocks ready for writing. Errors: `ConfigError` without a tokenizer or text."""
    model = checkpoint.load_as_stored().model
    texts = Measure.of(data, model.config, checkpoint.tokenizer).analysed
    length = min(_PIECE, model.config.max_positions)
    pieces = [text[at : at + length] for text in texts for at in range(0, len(text), length)]
    if not pieces:
        raise ConfigError(f"--calibrate {', '.join(data)}: gives this model no tokens; name another text")
    _log.info("calibrating on %s tokens", f"{sum(map(len, pieces)):,}")
    made = calibrate(model, planned.targets, planned.slots, checkpoint.tensors, pieces, planned.rounding)
    planned.ready.update(made.parts)
    receipt.calibration = {
        "data": list(data),
        "tokens": sum(map(len, pieces)),
        "matrices": made.matrices,
        "unseen": made.unseen,
    }


def _write(folder: Path, checkpoint: Checkpoint, planned: FilesToWrite, receipt: QuantisationReceipt) -> None:
    """Write the small files and the tensors, and read the tensors back. Errors: `CheckpointError`."""
    small_files_from_keys(checkpoint, folder)
    for name in receipt.copied:
        shutil.copyfile(checkpoint.path / name, folder / name)
    config = read_json(folder / "config.json") if checkpoint.gguf is not None else checkpoint.raw_config
    write_json(folder / "config.json", config | {"quantization_config": planned.description}, indent=2)
    digests: dict[str, str] = {}
    write_shards(folder, planned.pieces, written=lambda name, tensor: digests.update({name: _digest(tensor)}))
    rounding, files = planned.rounding, FileBytes()
    receipt.rounding = {
        "matrices": rounding.rounded,
        "relative_rms": (rounding.error / rounding.size) ** 0.5 if rounding.size else 0.0,
    }
    for file in weight_files(folder):
        for name, entry in read_header(file).items():
            if digests.pop(name, None) != _digest(files.tensor(name, (file, entry))):
                raise CheckpointError(f"{folder}: '{name}' was not written as it was made; nothing was kept")
    if digests:
        raise CheckpointError(f"{folder}: '{min(digests)}' was not written; nothing was kept")


@dataclass(frozen=True)
class _Measured:
    """The original's answers and perplexity, to compare the result with."""

    measure: Measure
    answers: ProbeRecord
    perplexity: float | None
    data: list[str]

    @staticmethod
    def of(checkpoint: Checkpoint, data: Sequence[str]) -> _Measured:
        """Those of a checkpoint as it is stored."""
        model = checkpoint.load_as_stored().model
        if not model.has_head:
            raise ConfigError(
                f"{checkpoint.path}: has no output head, so it gives no answers to compare; give --no-outputs"
            )
        measure = Measure.of(data, model.config, checkpoint.tokenizer)
        return _Measured(measure, measure.record(model), measure.perplexity(model), list(data))

    def compare(self, model: Transformer, receipt: QuantisationReceipt, folder: Path) -> None:
        """Measure the result, and keep its answers in `folder` for `coterie verify`."""
        answers = self.measure.record(model)
        save_probes(folder, answers)
        receipt.function = self.measure.change(self.answers, answers)
        receipt.perplexity = BeforeAfter(self.perplexity, self.measure.perplexity(model))
        receipt.perplexity_data = self.data if self.measure.documents else []
        receipt.perplexity_tokens = sum(len(document.ids) for document in self.measure.documents)


def _held(result: Checkpoint, precision: Precision) -> Transformer:
    """The result in its own codes, whatever their blocks, activations in float32."""
    stored = _stored(result)
    plain = {stored.dtype(name) for name in stored if stored.form(name) is None}
    dtype = plain.pop() if len(plain) == 1 else torch.float32
    return result.load(dtype, compute_dtype=torch.float32, precision=precision).model


def _stored(checkpoint: Checkpoint) -> StoredTensors:
    assert isinstance(checkpoint.tensors, StoredTensors)
    return checkpoint.tensors


def _bytes(checkpoint: Checkpoint) -> int:
    return sum(checkpoint.tensors.bytes_by_type.values())


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(bytes_of(tensor)).hexdigest()
