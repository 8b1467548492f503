"""Loading a model, fresh processes, files in page cache: coterie against transformers and llama.cpp.

Without options a 2 GB mixture of experts in the layout of Qwen3-MoE (one tensor per expert and matrix), in
bfloat16 shards of 512 MB. With `--gguf` a dense model of the llama architecture in one GGUF file: coterie and
transformers unpack it into bfloat16, coterie also rounds it to int4 while reading, and llama.cpp keeps it as
it is. Time is from the call to the last byte in memory; the peak is the process's largest resident size minus
that after its imports.

    python bench/load.py [--gigabytes 2] [--repeats 5]
    python bench/load.py --gguf q4_k_m [--gigabytes 1] [--repeats 5]

With `--int4` the first model's matrices are in 4 bits (compressed-tensors, groups of 32): coterie widens them
to bfloat16, or keeps their codes; transformers, with the package compressed-tensors on the path, keeps the
codes of attention and widens the experts.

    PYTHONPATH=... python bench/load.py --int4 [--gigabytes 2] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import RESULTS, environment, median, median_ratio, resident, write_json

SIDES = ("coterie", "transformers")
INT4_SIDES = ("coterie", "coterie, int4", "transformers")
GGUF_SIDES = ("coterie", "coterie, int4", "transformers", "llama.cpp")


def generate(path: Path, gigabytes: float) -> int:
    """Write the checkpoint; the number of its parameters."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    layers = max(1, round(8 * gigabytes / 2))
    config = Qwen3MoeConfig(
        vocab_size=32768,
        hidden_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
        num_experts=64,
        num_experts_per_tok=8,
        moe_intermediate_size=576,
        intermediate_size=4096,
        norm_topk_prob=True,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(path, max_shard_size="512MB")
    return sum(parameter.numel() for parameter in model.parameters())


def pack_int4(path: Path, group: int = 32) -> None:
    """Round the matrices of attention and experts to 4 bits, as compressed-tensors packs them."""
    import torch
    from safetensors.torch import load_file, save_file

    for file in path.glob("*.safetensors"):
        stored = {}
        for name, tensor in load_file(file).items():
            if not name.endswith("_proj.weight"):
                stored[name] = tensor
                continue
            blocks = tensor.float().unflatten(1, (-1, group))
            scales = (blocks.abs().amax(-1) / 7.5).to(torch.bfloat16)
            codes = (blocks / scales.float()[..., None]).round().clamp(-8, 7).flatten(1).int() + 8
            shifts = torch.arange(0, 32, 4, dtype=torch.int32)
            stem = name.removesuffix(".weight")
            packed = (codes.unflatten(1, (-1, 8)) << shifts).sum(-1, dtype=torch.int32)
            stored[f"{stem}.weight_packed"], stored[f"{stem}.weight_scale"] = packed, scales
            stored[f"{stem}.weight_shape"] = torch.tensor(tensor.shape)
        save_file(stored, file)
    (path / "model.safetensors.index.json").unlink(missing_ok=True)
    files = sorted(path.glob("*.safetensors"))
    names = {name: file.name for file in files for name in load_file(file)}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    method = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    method |= {"quantization_status": "compressed", "ignore": ["lm_head"]}
    config = json.loads((path / "config.json").read_text()) | {"quantization_config": method}
    (path / "config.json").write_text(json.dumps(config))


def generate_gguf(folder: Path, gigabytes: float, quant: str) -> int:
    """Write model.gguf, `gigabytes` in bfloat16; the number of its parameters."""
    import torch

    from coterie.config import AttentionConfig, BlockConfig, FeedForwardConfig, ModelConfig, RopeConfig
    from coterie.gguf.export import export_gguf
    from coterie.infer.model import LanguageModel, save
    from coterie.nn.transformer import Transformer
    from coterie.primer import documents
    from coterie.text.tokenizer import Tokenizer

    texts = [str(getattr(d, "text", d)) for _, d in zip(range(400), documents(), strict=False)]
    tokenizer = Tokenizer.train(texts, 4096)
    attention = AttentionConfig(num_heads=32, num_kv_heads=8, head_dim=64, rope=RopeConfig(theta=1e4))
    block = BlockConfig(attention=attention, ffn=FeedForwardConfig(width=5632))
    config = ModelConfig(
        family="llama",
        vocab_size=tokenizer.vocab_size,
        width=2048,
        blocks=(block,) * max(1, round(11 * gigabytes)),
        max_positions=2048,
        tie_embeddings=False,
    )
    model = Transformer(config).to(torch.bfloat16)
    model.initialise(0)
    save(LanguageModel(model, tokenizer), folder / "m")
    export_gguf(folder / "m", folder / "model.gguf", quant)
    shutil.rmtree(folder / "m")
    return sum(parameter.numel() for parameter in model.parameters())


def loader(side: str, path: str) -> Callable[[], Any]:
    """What loads the model and gives an object with parameters (llama.cpp: without)."""
    if side.startswith("coterie"):
        from coterie.checkpoints.directory import load_model
        from coterie.config import Precision

        precision = Precision.parse("int4") if "int4" in side else None
        return lambda: load_model(path, dtype="bfloat16", precision=precision).model
    if side == "llama.cpp":
        import llama_cpp

        # Not mapped: all of it in memory, as for the others.
        return lambda: llama_cpp.Llama(path, n_ctx=64, n_threads=1, use_mmap=False, verbose=False)
    import torch
    from transformers import AutoModelForCausalLM, LlamaForCausalLM, Qwen3MoeForCausalLM  # noqa: F401 (not timed)
    from transformers.utils import logging

    logging.disable_progress_bar()
    if path.endswith(".gguf"):
        import gguf  # noqa: F401

        folder, name = str(Path(path).parent), Path(path).name
        return lambda: AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
    return lambda: AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)


def one(side: str, path: str) -> None:
    """Load in this process; print the figures as JSON."""
    load = loader(side, path)
    before = resident("VmHWM")
    start = time.perf_counter()
    model = load()
    # The last byte really came.
    parameters = [] if side == "llama.cpp" else [*model.parameters(), *model.buffers()]
    total = sum(float(parameter.flatten()[-1]) for parameter in parameters)
    seconds = time.perf_counter() - start
    assert total == total
    parameter_bytes = sum(parameter.nbytes for parameter in parameters)
    print(
        json.dumps(
            {"seconds": seconds, "peak_bytes": resident("VmHWM") - before, "parameter_bytes": parameter_bytes}
        )
    )


def measure(sides: tuple[str, ...], path: str, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds and peaks of every side, by rounds; the first round fills the page cache and is not kept."""
    figures: dict[str, dict[str, list[float]]] = {side: {"seconds": [], "peak_bytes": []} for side in sides}
    for round_number in range(repeats + 1):
        for side in sides:
            command = [sys.executable, __file__, "--one", side, path]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(run.stdout.splitlines()[-1])
            if round_number:
                for name, values in figures[side].items():
                    values.append(found[name])
                print(
                    f"{side:14s} {found['seconds']:6.2f} s  peak {found['peak_bytes'] / 1e9:5.2f} GB",
                    flush=True,
                )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--gguf", metavar="QUANT")
    parser.add_argument("--int4", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.gguf:
            sides, path = GGUF_SIDES, folder / "model.gguf"
            parameters = generate_gguf(folder, options.gigabytes, options.gguf)
        else:
            sides, path = INT4_SIDES if options.int4 else SIDES, folder
            parameters = generate(folder, options.gigabytes)
            if options.int4:
                pack_int4(folder)
        size = sum(
            file.stat().st_size for file in folder.rglob("*") if file.suffix in (".safetensors", ".gguf")
        )
        figures = measure(sides, str(path), options.repeats)
    own = figures["coterie"]
    ratios = {
        side: {name: round(median_ratio(own[name], found[name]), 3) for name in ("seconds", "peak_bytes")}
        for side, found in figures.items()
        if side != "coterie"
    }
    record = {
        "what": " ".join((__doc__ or "").split("\n\n    ")[0].split()),
        "environment": environment(),
        "repeats": options.repeats,
        "quant": "int4" if options.int4 else options.gguf,
        "parameters": parameters,
        "file_bytes": size,
        "sides": {
            side: {name: median(values) for name, values in found.items()} for side, found in figures.items()
        },
        "ratios": ratios if options.gguf or options.int4 else ratios["transformers"],
    }
    print(record["ratios"])
    out = options.out or RESULTS / (
        "load_gguf.json" if options.gguf else "load_int4.json" if options.int4 else "load.json"
    )
    write_json(out, record)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
