"""Pack a random matrix with a quantiser's own code, where it is installed: `pack.py LIBRARY:CASE OUT`.

Writes `model.safetensors` (the parts of `x`), `meant.safetensors` (what the library makes of them again) and
`config.json` (the description).
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

HEIGHT, WIDTH = 96, 128
generator = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(HEIGHT, WIDTH, generator=generator) * 0.1


def scales(group, limit, dtype=torch.float32):
    blocks = WEIGHT.unflatten(1, (-1, group))
    return (blocks.abs().amax(-1) / limit).to(dtype)


def compressed(kind):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    cases = {
        "pack4": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32}, 32, 7.5),
        "pack3": ("pack-quantized", {"num_bits": 3, "strategy": "group", "group_size": 64}, 64, 3.5),
        "zeros": (
            "pack-quantized",
            {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False},
            32,
            7.5,
        ),
        "int8": ("int-quantized", {"num_bits": 8, "strategy": "channel"}, WIDTH, 127.5),
        "fp8": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}, WIDTH, 448),
        "nvfp4": (
            "nvfp4-pack-quantized",
            {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
            16,
            6,
        ),
        "mxfp4": (
            "mxfp4-pack-quantized",
            {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32},
            32,
            6,
        ),
        "mxfp8": (
            "mxfp8-quantized",
            {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32},
            32,
            448,
        ),
    }
    layout, arguments, group, limit = cases[kind]
    arguments = {"symmetric": True, **arguments}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**arguments))
    state = {"weight": WEIGHT.clone(), "weight_scale": scales(group, limit)}
    if kind == "zeros":
        state["weight_zero_point"] = torch.randint(
            -3, 4, state["weight_scale"].shape, generator=generator
        ).to(torch.int8)
    if kind == "nvfp4":
        whole = 448 / state["weight_scale"].max()
        state["weight_global_scale"] = whole.reshape(1)
        state["weight_scale"] = (state["weight_scale"] * whole).to(torch.float8_e4m3fn).float()
    if kind.startswith("mx"):
        state["weight_scale"] = 2.0 ** torch.ceil(torch.log2(state["weight_scale"]))
    compressor = BaseCompressor.get_value_from_registry(layout)
    stored = compressor.compress(state, scheme)
    meant = compressor.decompress(dict(stored), scheme)["weight"]
    group_config = {"targets": ["Linear"], "weights": {"type": "int", **arguments}}
    config = {"format": layout, "config_groups": {"group_0": group_config}}
    return stored, meant, {"quant_method": "compressed-tensors", **config}


def bitsandbytes(kind):
    import bitsandbytes as bnb

    if kind == "int8":
        codes, largest, _ = bnb.functional.int8_vectorwise_quant(WEIGHT.half())
        meant = bnb.functional.int8_vectorwise_dequant(codes, largest)
        layout = torch.tensor(0, dtype=torch.uint8)
        return (
            {"weight": codes, "SCB": largest, "weight_format": layout},
            meant,
            {"quant_method": "bitsandbytes"},
        )
    table, nested = kind.removesuffix("-nested"), kind.endswith("-nested")
    layer = bnb.nn.Linear4bit(WIDTH, HEIGHT, bias=False, compress_statistics=nested, quant_type=table)
    layer.weight = bnb.nn.Params4bit(
        WEIGHT.clone(), requires_grad=False, compress_statistics=nested, quant_type=table
    )
    layer = layer.to("cpu")
    state = layer.weight.quant_state
    meant = bnb.functional.dequantize_4bit(layer.weight.data, state)
    return dict(layer.state_dict()), meant, {"quant_method": "bitsandbytes"}


def gptq(kind):
    path = importlib.util.find_spec("auto_gptq").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location(
        "qlinear", Path(path) / "nn_modules/qlinear/qlinear_cuda_old.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bits, group = int(kind[0]), 32
    layer = module.QuantLinear(bits, group, WIDTH, HEIGHT, bias=False)
    plain = torch.nn.Linear(WIDTH, HEIGHT, bias=False)
    step = scales(group, 2 ** (bits - 1)).half().float()
    zeros = torch.randint(1, 2**bits - 1, step.shape, generator=generator).float()
    order = torch.arange(WIDTH) // group
    if kind.endswith("order"):
        order = order[torch.randperm(WIDTH, generator=generator)]
    codes = torch.randint(0, 2**bits, (HEIGHT, WIDTH), generator=generator)
    plain.weight.data = step[:, order] * (codes - zeros[:, order])
    layer.pack(plain, step, zeros, order.int())
    meant = layer.half()(torch.eye(WIDTH, dtype=torch.float16)).T
    stored = {key: value for key, value in layer.state_dict().items() if key != "bias"}
    return stored, meant, {"quant_method": "gptq", "bits": bits, "group_size": group}


def awq(kind):
    path = importlib.util.find_spec("awq").submodule_search_locations[0]
    for name in ("awq", "awq.modules", "awq.modules.linear", "awq.utils"):  # without its models
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(Path(path, *name.split(".")[1:]))]
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    group = 32
    plain = torch.nn.Linear(WIDTH, HEIGHT, bias=False)
    step = scales(group, 8).half().float()
    zeros = torch.randint(0, 16, step.shape, generator=generator)
    codes = torch.randint(0, 16, (HEIGHT, WIDTH), generator=generator)
    plain.weight.data = (codes - zeros.repeat_interleave(group, 1)) * step.repeat_interleave(group, 1)
    layer = WQLinear_GEMM.from_linear(plain, 4, group, False, step.T.contiguous(), zeros.T.contiguous())
    meant = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, group).T
    return dict(layer.state_dict()), meant, {"quant_method": "awq", "group_size": group, "version": "gemm"}


library, _, case = sys.argv[1].partition(":")
parts, result, description = {
    "compressed": compressed,
    "bitsandbytes": bitsandbytes,
    "gptq": gptq,
    "awq": awq,
}[library](case)
out = Path(sys.argv[2])
save_file(
    {f"x.{key}": value.detach().contiguous() for key, value in parts.items()}, out / "model.safetensors"
)
save_file({"x.weight": result.detach().contiguous()}, out / "meant.safetensors")
(out / "config.json").write_text(json.dumps(description))
