"""Which method a directory's weights are quantised with, and what each of their tensors encodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from coterie.checkpoints.quantised import (
    awq,
    bitsandbytes,
    compressed,
    fp8,
    gptq,
    modelopt,
    mxfp4,
)
from coterie.checkpoints.quantised.encoded import EncodedTensor
from coterie.checkpoints.quantised.finder import Finder
from coterie.checkpoints.quantised.settings import QuantSettings
from coterie.checkpoints.tensor_reader import Entries, FileBytes, Plain
from coterie.config import CheckpointError

_COLLECT: dict[str, Callable[[Finder], None]] = {
    "fp8": fp8.collect,
    "fbgemm_fp8": fp8.collect,
    "mxfp4": mxfp4.collect,
    "bitsandbytes": bitsandbytes.collect,
    "gptq": gptq.collect,
    "awq": awq.collect,
    "compressed-tensors": compressed.collect,
    "modelopt": modelopt.collect,
}


def collect_tensors(
    entries: Entries, files: FileBytes, quantisation: QuantSettings | None, where: Path
) -> dict[str, Plain | EncodedTensor]:
    """The tensors that the stored ones are or encode, in the order of the files.

    `quantisation`: what the directory says of it (None: plain). `where`: the directory, for messages. Errors:
    `CheckpointError`, one line, for an unknown method, a quantised tensor without its scale, and parts of
    other types or shapes than the method's.
    """
    found = Finder(entries, files, quantisation or QuantSettings({}, str(where)))
    if quantisation is not None:
        method = quantisation.word("quant_method")
        if method not in _COLLECT:
            raise CheckpointError(
                f"{where}: its weights are quantised as '{method}'; {', '.join(sorted(_COLLECT))} are read "
                "here, save others in bfloat16 first"
            )
        _COLLECT[method](found)
    for name, (file, entry) in entries.items():
        if name not in found.used and entry.dtype.startswith(("F8_", "F6_", "F4")):
            raise CheckpointError(
                f"{file}: '{name}' is stored as {entry.dtype}, but config.json has no "
                "quantization_config for it"
            )
    tensors: dict[str, Plain | EncodedTensor] = {}
    for name, place in entries.items():
        encoded = found.used.get(name)
        if encoded is not None:
            tensors[encoded] = found.tensors[encoded]
        elif name not in found.used:
            tensors[name] = Plain(name, *place)
    return tensors
