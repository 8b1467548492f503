"""Peak memory of tuning a billion-parameter mixture with QLoRA: the base is rounded to 4 bits as it is read.

The base is generated (random bfloat16 weights, 64 experts, 8 chosen) by one process; the measured process
loads it, attaches factors of rank 16 to attention and all experts, and takes AdamW steps on one
batch. The peak is that of the whole process, from its start: interpreter, libraries, loading, steps.

    python bench/qlora_memory.py [--quick] [--steps N] [--quant int4|int8|none] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from common import RESULTS, environment, median, resident, write_json
from coterie.adapters.attach import attach
from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.fill import materialise
from coterie.checkpoints.quantise import weights_by_group
from coterie.config import AdapterConfig
from coterie.families.registry import config_from_hf
from coterie.nn.forward_context import ForwardContext
from coterie.nn.logprobs import token_logprobs
from coterie.nn.transformer import Transformer

LIMIT_MIB = 6 * 1024
TOKENS, RANK = 512, 16
SHAPE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 32768,
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "moe_intermediate_size": 384,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
QUICK = {"hidden_size": 256, "num_hidden_layers": 2, "moe_intermediate_size": 96, "num_attention_heads": 4}


def generate(folder: Path, quick: bool) -> None:
    with torch.device("meta"):
        model = Transformer(config_from_hf(SHAPE | (QUICK if quick else {})))
    materialise(model, torch.bfloat16, "cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0) if name.endswith("norm.weight") else parameter.normal_(std=0.02)
    save_model(folder, model)
    print(json.dumps({"parameters": sum(parameter.numel() for parameter in model.parameters())}))


def tune(folder: Path, steps: int, quant: str) -> None:
    settings = AdapterConfig(rank=RANK, alpha=32, quant=quant)  # type: ignore[arg-type]
    start = time.perf_counter()
    precision = settings.precision
    loaded = load_model(folder, dtype="bfloat16", compute_dtype=torch.float32, precision=precision)
    model, seconds = loaded.model, time.perf_counter() - start
    after_loading = {
        "resident": resident("VmRSS") / 2**20,
        "peak": resident("VmHWM") / 2**20,
        "seconds": round(seconds, 1),
    }
    attach(model, settings)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=1e-3, weight_decay=0.0, fused=True)
    ids = torch.randint(0, SHAPE["vocab_size"], (TOKENS,), generator=torch.Generator().manual_seed(2))
    losses, times = [], []
    for _ in range(steps):
        start = time.perf_counter()
        h_TD = model(ids, ForwardContext.packed([TOKENS]))
        loss = -token_logprobs(h_TD[:-1], model.head_weight, ids[1:]).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(round(loss.item(), 4))
        times.append(time.perf_counter() - start)
    result = {
        "after_loading_mib": after_loading,
        "peak_mib": round(resident("VmHWM") / 2**20),
        "trainable": sum(parameter.numel() for parameter in learnt),
        "losses": losses,
        "tokens_per_second": round(TOKENS / median(times), 1),
        "bits": {group: round(row.bits, 3) for group, row in weights_by_group(model).items()},
    }
    print(json.dumps(result))


def run(options: argparse.Namespace, phase: str, folder: Path) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--phase",
        phase,
        "--folder",
        str(folder),
        "--steps",
        str(options.steps),
    ]
    command += ["--quant", options.quant, *(["--quick"] if options.quick else [])]
    environ = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise SystemExit(f"{phase}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small base; prints, writes nothing")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--quant", choices=["int4", "int8", "none"], default="int4")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "qlora_memory.json")
    parser.add_argument("--phase", choices=["generate", "tune"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase == "generate":
        generate(options.folder, options.quick)
    elif options.phase == "tune":
        tune(options.folder, options.steps, options.quant)
    else:
        with tempfile.TemporaryDirectory() as folder:
            made = run(options, "generate", Path(folder) / "base")
            result = made | {"quant": options.quant} | run(options, "tune", Path(folder) / "base")
        result["inside_6_gib"] = result["peak_mib"] <= LIMIT_MIB
        print(json.dumps(result, indent=1))
        if not options.quick:
            what = " ".join((__doc__ or "").split("\n\n    ")[0].split())
            record = {
                "what": what,
                "environment": environment(),
                "shape": SHAPE,
                "rank": RANK,
                "tokens": TOKENS,
            }
            write_json(options.out, record | result)


if __name__ == "__main__":
    main()
