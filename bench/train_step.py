"""One training step (forward, backward, AdamW): coterie against its dense twin and against transformers.

Four layers of width 256, vocabulary 4096, 8 sequences of 512 tokens, 1024 active feed-forward columns per
token in every model; Llama 4 with Scout's 16 experts, and with 8. All contenders run in one process with
the same weights and take turns; every round has a new random batch, so that routing is fresh as in training.
Figures are medians over rounds, ratios are taken within a round.

    python bench/train_step.py [--quick] [--only NAME ...] [--threads 1 2] [--dtype float32 bfloat16]
    [--repeats N]
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from common import RESULTS, environment, median, median_ratio, timed, write_json
from coterie.families.registry import config_from_hf, family
from coterie.machine.glibc import keep_freed_memory
from coterie.nn.forward_context import ForwardContext
from coterie.nn.kernels import measured
from coterie.nn.logprobs import token_logprobs
from coterie.nn.transformer import Transformer
from shapes import models, shape

SEQUENCES, LENGTH, VOCABULARY = 8, 512, 4096
SHAPE = shape(width=256, layers=4, heads=8, head_dim=32, vocabulary=VOCABULARY)
MODELS = models(columns=1024)
MODELS["llama4_8"] = MODELS["llama4"] | {"num_local_experts": 8}
IMPLEMENTATIONS = {
    "dense": (None,),
    "llama4": (None,),
    "llama4_8": (None,),
    "mixtral": ("eager", "grouped_mm"),
}
IMPLEMENTATIONS["qwen3_moe"] = IMPLEMENTATIONS["mixtral"]


@dataclass
class Contender:
    """One model with its optimiser; `loss(ids)` is the mean negative log-likelihood of the next tokens."""

    name: str
    loss: Callable[[Tensor], Tensor]
    optimiser: torch.optim.Optimizer
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def step(self, ids: Tensor) -> None:
        loss = self.loss(ids)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.losses.append(loss.item())


def optimiser_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)


def ours(name: str, hf_config: Any, weights: dict[str, Tensor], dtype: torch.dtype) -> Contender:
    """Coterie's model with the weights that transformers wrote; parameters in `dtype`, as there."""
    config = config_from_hf(hf_config.to_dict())
    model = Transformer(config, compute_dtype=dtype)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for slot in family(config.family).slots(config):
            slot.view(parameters[slot.name]).copy_(weights[slot.disk])
    model = model.to(dtype)
    num_tokens = SEQUENCES * (LENGTH - 1)
    learnt_T = torch.ones(SEQUENCES, LENGTH)
    learnt_T[:, -1] = 0

    def loss(ids: Tensor) -> Tensor:
        context = ForwardContext.packed([LENGTH] * SEQUENCES, balance_tokens=float(ids.numel()))
        h_TD = model(ids.flatten(), context)
        logp_T = token_logprobs(h_TD, model.head_weight, ids.roll(-1, 1).flatten())
        return -(logp_T * learnt_T.flatten()).sum() / num_tokens

    return Contender(f"{name}/coterie", loss, optimiser_of(model))


def theirs(name: str, hf_config: Any, path: str, dtype: torch.dtype, implementation: str | None) -> Contender:
    options = {} if implementation is None else {"experts_implementation": implementation}
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa", **options)
    model.train()

    def loss(ids: Tensor) -> Tensor:
        result: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
        return result

    label = "transformers" if implementation is None else f"transformers-{implementation}"
    return Contender(f"{name}/{label}", loss, optimiser_of(model))


def contenders(name: str, dtype: torch.dtype) -> list[Contender]:
    torch.manual_seed(0)
    settings = SHAPE | MODELS[name]
    hf_config = AutoConfig.for_model(**settings)
    with tempfile.TemporaryDirectory() as path:
        AutoModelForCausalLM.from_config(hf_config).save_pretrained(path)
        weights = load_file(Path(path) / "model.safetensors")
        made = [ours(name, hf_config, weights, dtype)]
        made += [theirs(name, hf_config, path, dtype, option) for option in IMPLEMENTATIONS[name]]
    return made


def measure(names: list[str], dtype: torch.dtype, threads: int, repeats: int) -> dict[str, Any]:
    """Rounds of one step each, in turn; the first two rounds warm up and are thrown away."""
    torch.set_num_threads(threads)
    all_contenders = [contender for name in names for contender in contenders(name, dtype)]
    generator = torch.Generator().manual_seed(1)
    for round_number in range(repeats + 2):
        ids = torch.randint(0, VOCABULARY, (SEQUENCES, LENGTH), generator=generator)
        for contender in all_contenders:
            wall, cpu = timed(lambda: contender.step(ids))  # noqa: B023 (called at once)
            if round_number >= 2:
                contender.wall.append(wall)
                contender.cpu.append(cpu)
    return report(all_contenders, threads)


def report(all_contenders: list[Contender], threads: int) -> dict[str, Any]:
    by_name = {contender.name: contender for contender in all_contenders}
    # One thread: process CPU time, which neighbours on the machine disturb least. Two threads: wall time.
    clock = "cpu" if threads == 1 else "wall"
    result: dict[str, Any] = {"clock_of_ratios": clock, "steps": {}, "ratios": {}}
    for name, contender in by_name.items():
        result["steps"][name] = {
            "wall_ms": round(1000 * median(contender.wall), 1),
            "cpu_ms": round(1000 * median(contender.cpu), 1),
            "first_loss": round(contender.losses[0], 6),
        }
    for name, contender in by_name.items():
        model, side = name.split("/")
        times = getattr(contender, clock)
        if side == "coterie":
            if "dense/coterie" in by_name and model != "dense":
                twin = getattr(by_name["dense/coterie"], clock)
                result["ratios"][f"{name} : dense/coterie"] = round(median_ratio(times, twin), 3)
            for other in by_name:
                if other.startswith(f"{model}/transformers"):
                    ratio = median_ratio(times, getattr(by_name[other], clock))
                    result["ratios"][f"{name} : {other}"] = round(ratio, 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="three rounds, one thread; prints, writes nothing"
    )
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument(
        "--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"]
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "train_step.json")
    options = parser.parse_args()
    keep_freed_memory()  # as in training; it serves all contenders
    repeats, threads = (3, [1]) if options.quick else (options.repeats, options.threads)
    record: dict[str, Any] = {
        "what": " ".join((__doc__ or "").split("\n\n    ")[0].split()),
        "environment": environment(),
        "repeats": repeats,
        "shape": SHAPE | {"sequences": SEQUENCES, "length": LENGTH},
        "models": MODELS,
        "runs": {},
    }
    for dtype in options.dtype:
        for count in threads:
            run = measure(options.only, getattr(torch, dtype), count, repeats)
            run["products"] = dict(measured.choices())
            record["runs"][f"{dtype}, {count} thread{'s' if count > 1 else ''}"] = run
            print(f"== {dtype}, {count} thread(s), ratios by {run['clock_of_ratios']} time")
            for name, step in run["steps"].items():
                times = f"wall {step['wall_ms']:8.1f} ms  cpu {step['cpu_ms']:8.1f} ms"
                print(f"{name:32s} {times}  {step['first_loss']}")
            for name, ratio in run["ratios"].items():
                print(f"{name:60s} {ratio:6.3f}", flush=True)
            gc.collect()
            if not options.quick:
                write_json(options.out, record)  # after each part: a run cut short keeps what it measured
    if not options.quick:
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
