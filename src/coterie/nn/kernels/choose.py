"""Which product is taken for a kind of work, device, dtype and size: all such decisions of `coterie.nn`.

A new kernel is one more name here, and one more function next to those that it competes with.

T tokens, I input features, O output features, R routed rows sorted by expert, E experts, V vocabulary.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

from coterie.nn.kernels.cuda import GROUP_ROWS, is_right
from coterie.nn.kernels.measured import fastest
from coterie.nn.kernels.one_pass import DTYPES, ready
from coterie.nn.kernels.weights import ExpertWeights

# Classes of products: from this many rows on there are many; few rows have ways from this size of the weight.
_MANY, _LARGE = 16, 1 << 18
# A product of few rows can pay turned round, while all rows together are short.
_SHORT, _NOT_TINY = 3072, 1 << 15
# Routed rows from which the adapted mixture in one function is faster than the composed one.
_MANY_ROWS = 256
# Rows up to which Python sorts them by expert faster than a dozen small tensor operations do.
_FEW_ROWS = 64
# Numbers from which a pass pays: importing numba takes longer than all work on smaller models.
_WORTH_PASSES = 1 << 16
# float32 segments shorter than this are faster in PyTorch's own attention kernel.
_LONG_SEGMENT = 192
# Flash attention's limit.
_WIDEST_HEAD = 256
# float32 scores of one chunk: on CPU they stay in cache, on CUDA a product must be large to be fast.
_CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}

Dense = Literal["turned", "onednn", "torch"]
Grouped = Literal["loop", "grouped_mm", "composed"]
Mixture = Literal["adapted", "composed"]
Layer = Literal["swiglu", "composed"]


def dense(x_TI: Tensor, weight_OI: Tensor, into: bool = False) -> Dense:
    """How `x @ weight.T` is computed: for float32 on CPU the way that `measured` found for its class.

    `into`: the result is written into memory that is there already. `turned` is `(weight @ x.T).T`, for few
    rows and not a tiny weight.
    """
    if not has_ways(x_TI, weight_OI):
        return "torch"
    rows, inputs = x_TI.shape
    size, whole = weight_OI.numel(), weight_OI.is_contiguous()
    if max(2, rows) * inputs <= _SHORT and size >= _NOT_TINY and whole:
        way = fastest("row" if rows == 1 else "short_rows")
    elif rows < _MANY:
        way = "torch" if size < _LARGE else fastest("long_row" if rows == 1 else "long_rows")
    elif into:
        way = fastest("expert_rows")
    else:
        way = fastest("many_rows" if whole else "input_gradient")
    return cast(Dense, way)


def weight_gradient(x_TI: Tensor, grad_TO: Tensor) -> Dense:
    """How `grad.T @ x` is computed."""
    if not has_ways(x_TI, grad_TO) or x_TI.shape[0] < _MANY:
        return "torch"
    return cast(Dense, fastest(_gradient_class(x_TI.shape[1], grad_TO.shape[1])))


def has_ways(x_TI: Tensor, weight_OI: Tensor) -> bool:
    """Whether there is more than one way for a product: float32 on CPU, not empty."""
    both = x_TI.dtype == torch.float32 and weight_OI.dtype == torch.float32
    return both and x_TI.device.type == "cpu" and x_TI.numel() > 0


def trains_plainly(x_TI: Tensor, weight_OI: Tensor) -> bool:
    """Whether PyTorch's own product is taken for a layer that may be trained, and for its gradients."""
    if not has_ways(x_TI, weight_OI) or x_TI.shape[0] < _MANY:
        return True
    works = ("many_rows", "input_gradient", _gradient_class(x_TI.shape[1], weight_OI.shape[0]))
    return all(fastest(work) == "torch" for work in works)


def _gradient_class(inputs: int, outputs: int) -> str:
    wide = max(inputs, outputs) >= 2 * min(inputs, outputs)
    return "wide_weight_gradient" if wide else "square_weight_gradient"


def grouped(x_RI: Tensor, weights: ExpertWeights) -> Grouped:
    """How each expert's rows are multiplied by its own matrix.

    `loop`: one product per expert that has rows. `grouped_mm`: one CUDA kernel. `composed`: differentiable
    pieces put together, for dropout on the factors' input and for adapted or chosen experts on CUDA.
    """
    changed = weights.a_SrI is not None or weights.slices_SOI is not None
    if x_RI.device.type == "cpu":
        return "composed" if weights.dropout else "loop"
    if changed:
        return "composed"
    matrix = weights.matrix
    if not isinstance(matrix, Tensor) or x_RI.device.type != "cuda" or x_RI.dtype != torch.bfloat16:
        return "loop"
    # It wants rows of whole 16 bytes.
    whole = x_RI.shape[0] > 0 and all(size % 8 == 0 for size in matrix.shape[1:])
    return "grouped_mm" if whole and is_right("grouped_mm", x_RI.device) else "loop"


def expert_layer(x_RI: Tensor, swiglu: bool, gate_up: ExpertWeights, down: ExpertWeights) -> Layer:
    """How experts run on rows sorted by expert. `swiglu`: plain SwiGLU experts on CPU in one function."""
    plain = swiglu and gate_up.is_plain and down.is_plain and x_RI.device.type == "cpu"
    return "swiglu" if plain else "composed"


def mixture(
    x_TD: Tensor, num_rows: int, swiglu: bool, gate_up: ExpertWeights, down: ExpertWeights
) -> Mixture:
    """How a whole mixture runs, dispatch and combination included.

    `adapted`: SwiGLU experts with factors on two frozen layers, on CPU, without bias, DoRA or dropout.
    """
    fused = swiglu and x_TD.device.type == "cpu" and num_rows >= _MANY_ROWS
    return "adapted" if fused and gate_up.is_adapted_only and down.is_adapted_only else "composed"


def one_pass(*tensors: Tensor) -> bool:
    """Whether compiled passes are taken over these rows: of one type, on CPU, plain, the first not small.

    They read each number once where PyTorch's operations write every step between: 2 to 7 times as fast.
    """
    first = tensors[0]
    if first.dtype not in DTYPES or first.device.type != "cpu" or first.numel() < _WORTH_PASSES:
        return False
    if torch.compiler.is_compiling() or not ready():
        return False
    kinds = (Tensor, torch.nn.Parameter)
    return all(x.dtype == first.dtype and type(x) in kinds and x.stride(-1) == 1 for x in tensors)


def tiles_swiglu(gate_TF: Tensor) -> bool:
    """Whether `silu(gate) * up` goes tile by tile: twice as fast in float32 on CPU, slower in bfloat16."""
    return gate_TF.device.type == "cpu" and gate_TF.dtype == torch.float32


def sorts_in_python(ids_TK: Tensor) -> bool:
    """Whether Python's own sort orders these rows by expert: a handful on CPU."""
    return ids_TK.numel() <= _FEW_ROWS and ids_TK.device.type == "cpu"


def row_multiple(num_rows: int, num_experts: int, device: torch.device) -> int:
    """Rows per expert are rounded up to a multiple of this.

    oneDNN compiles a kernel (about a millisecond) for every new number of rows, and a new routing has new
    numbers at every step: 64 experts in bf16 ran 2.5 times slower than with multiples of 32. At most an
    eighth is wasted on average. On CUDA `grouped_mm` would else move the rows.
    """
    if device.type == "cuda":
        return GROUP_ROWS
    mean = num_rows / num_experts
    if device.type != "cpu" or mean < 12:  # products of fewer rows are not compiled
        return 1
    return 4 if mean < 64 else 16 if mean < 256 else 32 if mean < 1024 else 64


def attends_packed(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> bool:
    """Whether packed segments are one kernel on CUDA, which reads heads of one width in 16 bits."""
    width = q_THD.shape[2]
    halves = q_THD.dtype in (torch.bfloat16, torch.float16)
    if q_THD.device.type != "cuda" or not halves or q_THD.shape[0] == 0:
        return False
    same = k_TGD.shape[2] == v_TGD.shape[2] == width and width % 8 == 0 and width <= _WIDEST_HEAD
    return same and is_right("varlen", q_THD.device)


def attends_by_blocks(q_BLHD: Tensor) -> bool:
    """Whether attention is plain products of blocks: where `measured` found these faster than PyTorch.

    The price in bfloat16: scores are rounded before the softmax, as in every `eager` attention.
    """
    if q_BLHD.device.type != "cpu":
        return False
    if q_BLHD.dtype == torch.bfloat16:
        return fastest("attention_bfloat16") == "blocks"
    long = q_BLHD.dtype == torch.float32 and q_BLHD.shape[1] >= _LONG_SEGMENT
    return long and fastest("attention_float32") == "blocks"


def logprob_chunk(device: torch.device, vocab_size: int) -> int:
    """Tokens whose float32 scores (V of them each) are computed at a time."""
    return max(16, _CHUNK_BYTES.get(device.type, _CHUNK_BYTES["cpu"]) // (4 * vocab_size))
