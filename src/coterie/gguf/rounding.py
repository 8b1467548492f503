"""Whether a GGUF file is a checkpoint rounded to the file's types, and nothing else.

Answers cannot tell: rounding to eight or four bits moves them by more than any tolerance that would still
find a wrong tensor. The numbers can. The checkpoint is packed once more and compared byte by byte; a file of
another program may choose among neighbouring steps, so there each number must lie within the error of its
type.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.gguf_file.tensors import GgufTensors
from coterie.config import CheckpointError
from coterie.gguf.blocks import allowed_error, pack
from coterie.gguf.parameters import ParameterSource
from coterie.gguf.tensors import map_tensors
from coterie.llamacpp.slot import without_ones
from coterie.llamacpp.targets import target_of


@dataclass(frozen=True)
class FileRounding:
    """How the tensors of a file follow from the checkpoint's.

    `types`: number of tensors by type. `repacked`: tensors whose bytes are those that packing the checkpoint
    gives. `near`: further tensors with every number within the rounding error of its type. `wrong`: names of
    all others.
    """

    types: dict[str, int]
    repacked: int
    near: int
    wrong: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether the whole file is what packing the checkpoint gives."""
        return not self.near and not self.wrong

    @property
    def line(self) -> str:
        """What was proved, in words."""
        types = ", ".join(f"{count} {kind}" for kind, count in sorted(self.types.items()))
        total = sum(self.types.values())
        if self.wrong:
            return (
                f"{len(self.wrong)} of {total} tensors of the file are not the checkpoint's rounded to "
                f"their types, "
                f"first '{self.wrong[0]}'"
            )
        if self.near:
            return (
                f"every number of the file is within one rounding of the checkpoint's ({types}), but "
                f"{self.near} of {total} tensors were packed otherwise than here, so a nearby model would "
                f"pass too"
            )
        return (
            f"the file is the checkpoint rounded to its types ({types}): every byte of {total} tensors agrees"
        )


def file_rounding(checkpoint: Checkpoint, file: Path) -> FileRounding:
    """Compare every tensor of a file with the checkpoint's, one chunk of rows in memory at a time.

    Errors: `CheckpointError` for a file that lacks a tensor of the checkpoint, or has it in another shape.
    """
    source = ParameterSource(checkpoint)
    stored = GgufTensors.open(file)
    types: Counter[str] = Counter()
    near, wrong = 0, list[str]()
    for mapped in map_tensors(source, target_of(source.config)):
        if mapped.name not in stored or without_ones(stored.shape(mapped.name)) != without_ones(mapped.shape):
            raise CheckpointError(
                f"{file}: lacks the tensor '{mapped.name}'; it was not written from {checkpoint.path}"
            )
        kind = stored.type(mapped.name)
        types[kind] += 1
        at, same = 0, True
        for rows_RI in mapped.rows():
            start, at = at, at + len(rows_RI)
            packed = stored.packed_rows(mapped.name, start, at).numpy()
            if pack(rows_RI, kind, mapped.name).tobytes() == packed.tobytes():
                continue
            same = False
            found_RI = stored.read_rows(mapped.name, start, at).double().numpy()
            error_RI = np.abs(found_RI - rows_RI)
            allowed_RI = allowed_error(rows_RI, kind) + mapped.slack * np.abs(rows_RI)
            if not (error_RI <= allowed_RI).all():
                wrong.append(mapped.name)
                break
        near += not same and mapped.name not in wrong
    return FileRounding(dict(types), sum(types.values()) - near - len(wrong), near, tuple(wrong))
