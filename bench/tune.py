"""Tuning by LoRA (rank 16, attention and experts): against transformers with peft, and against a dense twin.

The mixture has 64 experts of which a token uses 8; the dense twin has as many active parameters. Base, rank,
first factors, data and optimiser are the same, so that losses must agree after every step. Each contender
runs in a separate process, which gives its peak memory; the processes take turns, and figures are medians
over rounds.

    python bench/tune.py [--quick] [--dtype D] [--only NAME ...] [--rounds N] [--steps N] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import RESULTS, environment, median, median_ratio, resident, write_json
from coterie.adapters.apply import apply_in_place
from coterie.adapters.attach import attach
from coterie.adapters.files import save_adapter
from coterie.checkpoints.directory import load_model, save_model
from coterie.config import AdapterConfig
from coterie.families.registry import config_from_hf
from coterie.machine.glibc import keep_freed_memory
from coterie.nn.forward_context import ForwardContext
from coterie.nn.logprobs import token_logprobs
from coterie.nn.transformer import Transformer
from shapes import shape

SEQUENCES, LENGTH, VOCABULARY, RANK = 2, 512, 4096, 16
SHAPE = shape(width=768, layers=4, heads=12, head_dim=64, vocabulary=VOCABULARY)
MODELS: dict[str, dict[str, Any]] = {
    "moe": {
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 384,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
    },
    "dense": {"model_type": "qwen3", "intermediate_size": 3072},
}
CONTENDERS = ["moe/coterie", "moe/peft-grouped_mm", "dense/coterie", "dense/peft-dense"]


def prepare(folder: Path) -> None:
    """A base of each shape and an adapter whose factors are all away from zero."""
    for name, settings in MODELS.items():
        model = Transformer(config_from_hf(SHAPE | settings))
        model.initialise(seed=0)
        save_model(folder / name, model)
        attach(model, AdapterConfig(rank=RANK, alpha=32))
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data + 0.01 * torch.randn(parameter.shape, generator=generator)
        save_adapter(folder / f"{name}-adapter", model, None, probes=False)


def our_loss(
    base: Path, adapter: Path, dtype: str = "float32"
) -> tuple[torch.nn.Module, Callable[[Tensor], Tensor]]:
    model = load_model(base, dtype=dtype).model
    apply_in_place(model, adapter)
    learnt_T = torch.ones(SEQUENCES, LENGTH)
    learnt_T[:, -1] = 0

    def loss(ids: Tensor) -> Tensor:
        h_TD = model(ids.flatten(), ForwardContext.packed([LENGTH] * SEQUENCES))
        logp_T = token_logprobs(h_TD, model.head_weight, ids.roll(-1, 1).flatten())
        return -(logp_T * learnt_T.flatten()).sum() / learnt_T.sum()

    return model.train(), loss


def their_loss(
    base: Path, adapter: Path, dtype: str, experts: str
) -> tuple[torch.nn.Module, Callable[[Tensor], Tensor]]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    options = {} if experts == "dense" else {"experts_implementation": experts}
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation="sdpa", **options)
    model = PeftModel.from_pretrained(plain, str(adapter), is_trainable=True).train()

    def loss(ids: Tensor) -> Tensor:
        result: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
        return result

    return model, loss


def work(contender: str, folder: Path, dtype: str, steps: int, threads: int) -> dict[str, Any]:
    """One process: two steps to warm up, then `steps` measured ones. Memory in MiB."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    name, side = contender.split("/")
    base, adapter = folder / name, folder / f"{name}-adapter"
    if side == "coterie":
        model, loss = our_loss(base, adapter, dtype)
    else:
        model, loss = their_loss(base, adapter, dtype, side.split("-")[1])
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=1e-3, weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(2)
    loaded = resident("VmRSS") / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here: loading has its own
    wall, cpu, losses = [], [], []
    for step in range(steps + 2):
        ids = torch.randint(0, VOCABULARY, (SEQUENCES, LENGTH), generator=generator)
        start = time.perf_counter(), time.process_time()
        value = loss(ids)
        value.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step >= 2:
            wall.append(time.perf_counter() - start[0])
            cpu.append(time.process_time() - start[1])
        losses.append(value.item())
    return {
        "wall": median(wall),
        "cpu": median(cpu),
        "losses": losses,
        "trainable": sum(parameter.numel() for parameter in learnt),
        "loaded": loaded,
        "peak": resident("VmHWM") / 2**20,
    }


def run_worker(contender: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", contender, "--folder", str(folder)]
    command += ["--steps", str(options.steps), "--threads", str(options.threads), "--dtype", options.dtype]
    environ = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise SystemExit(f"{contender}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def report(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over rounds; ratios of processor time and of peak memory, coterie over the other."""
    tokens = SEQUENCES * LENGTH
    contenders = {
        name: {
            "tokens_per_second": round(tokens / median([r["wall"] for r in rounds])),
            "cpu_ms_per_step": round(1000 * median([r["cpu"] for r in rounds]), 1),
            "peak_mib": round(median([r["peak"] for r in rounds])),
            "loaded_mib": round(median([r["loaded"] for r in rounds])),
            "trainable": rounds[0]["trainable"],
            "losses": [round(value, 5) for value in rounds[0]["losses"]],
        }
        for name, rounds in found.items()
    }
    ratios = {}
    for name in found:
        kind, side = name.split("/")
        others = [other for other in found if other.startswith(f"{kind}/peft")] if side == "coterie" else []
        if name == "moe/coterie" and "dense/coterie" in found:
            others.append("dense/coterie")
        for other in others:
            ratios[f"{name} : {other}"] = {
                key: round(median_ratio([r[key] for r in found[name]], [r[key] for r in found[other]]), 3)
                for key in ("cpu", "wall", "peak")
            }
    return {"contenders": contenders, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of two steps; prints, writes nothing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of base and activations"
    )
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--out", type=Path, default=RESULTS / "tune.json")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options.worker, options.folder, options.dtype, options.steps, options.threads)))
        return
    if options.quick:
        options.rounds, options.steps = 1, 2
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for _ in range(options.rounds):
            for name in options.only:
                found[name].append(run_worker(name, Path(folder), options))
                print(
                    name,
                    {key: round(value, 3) for key, value in found[name][-1].items() if key != "losses"},
                    flush=True,
                )
    result = report(found)
    print(json.dumps(result, indent=1))
    if not options.quick:
        record = json.loads(options.out.read_text()) if options.out.is_file() else {"runs": {}}
        record |= {"what": " ".join((__doc__ or "").split("\n\n    ")[0].split()), "rank": RANK}
        record |= {"shape": SHAPE, "models": MODELS, "tokens": SEQUENCES * LENGTH}
        record["runs"][options.dtype] = {"environment": environment(), "rounds": options.rounds} | result
        write_json(options.out, record)


if __name__ == "__main__":
    main()
