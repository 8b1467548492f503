"""NVIDIA ModelOpt: NVFP4, FP8 and the MX forms, by what is stored for each matrix.

O rows, I columns of a matrix.
"""

from __future__ import annotations

from coterie.checkpoints.quantised.finder import Finder
from coterie.checkpoints.quantised.fp4 import add_fp4
from coterie.checkpoints.quantised.fp8 import NUMBERS, scaled
from coterie.config import CheckpointError

_READ = {
    "fp8": None, "fp8_per_channel_per_token": None, "fp8_pb_wo": (128, 128), "mxfp8": (1, 32),
    "nvfp4": None, "w4a16_nvfp4": None, "w4a8_nvfp4_fp8": None, "w4a8_mxfp4_fp8": None,
}  # fmt: skip
_ACTIVATIONS = (".input_scale", ".output_scale", ".k_scale", ".v_scale")


def collect(found: Finder) -> None:
    """`X.weight` bytes or FP8 with `X.weight_scale`, and of NVFP4 `X.weight_scale_2`, encode `X.weight`.

    Errors: `CheckpointError` for other algorithms, a missing part, and wrong shapes.
    """
    block = _block(found)
    for name, _ in found.ending(".pre_quant_scale"):
        raise CheckpointError(
            f"{found.entries[name][0]}: '{name}' scales the layer's input, which is not read here; "
            "save the weights in bfloat16 first"
        )
    found.drop(*_ACTIVATIONS)
    for name, stem in list(found.weights("U8")):
        add_fp4(found, stem, name, ".weight_scale_2", "modelopt")
    for name, _ in list(found.weights(*NUMBERS)):
        scale, shape = f"{name}_scale", found.matrix(name)
        found.add(
            name, shape, scaled(found, name, scale, shape, block, "modelopt fp8"), weight=name, scale=scale
        )


def _block(found: Finder) -> tuple[int, int] | None:
    """The blocks of 8-bit weights, by the algorithm's name; None for scales per row or tensor."""
    settings = found.settings
    algorithm = settings.word("quant_algo", "mixed_precision")
    if algorithm != "mixed_precision" and algorithm not in _READ:
        raise settings.refused(f"quant_algo '{algorithm}' is not read here ({', '.join(_READ)} are)")
    if algorithm != "mixed_precision":
        return _READ[algorithm]
    layers = settings.table("quantized_layers")
    named = {str(layer.get("quant_algo")).lower() for layer in layers.values() if isinstance(layer, dict)}
    if not named <= _READ.keys():
        raise settings.refused(f"quant_algo '{min(named - _READ.keys())}' is not read here")
    blocks = {_READ[algorithm] for algorithm in named} - {None}
    if len(blocks) > 1:
        raise settings.refused("8-bit weights with two sizes of blocks are not read here")
    return blocks.pop() if blocks else None
