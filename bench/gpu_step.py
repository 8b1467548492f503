"""A training step, decoding and reading a prompt on one GPU in bfloat16: a dense model, 8 and 64 experts.

Eight layers of width 1024, vocabulary 32768, about 4096 active feed-forward columns per token. A step is
forward, backward and AdamW over 8 sequences of 1024 tokens, half of them cut into documents of several
lengths. Models take turns; every round has a new random batch. Each is measured with the kernels of
`nn/kernels/cuda.py` and, as `plain`, without them. Times end when the device has finished; figures are
medians over rounds, ratios are taken within a round. Parts that would begin after `--minutes` are left out
and named in the record.

    python bench/gpu_step.py [--quick] [--minutes 7] [--rounds 7] [--out PATH]
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from common import RESULTS, environment, median, median_ratio, write_json
from coterie.families.registry import config_from_hf
from coterie.infer.speed import measure_decode, measure_prefill
from coterie.nn.forward_context import ForwardContext
from coterie.nn.kernels import choose, cuda
from coterie.nn.logprobs import token_logprobs
from coterie.nn.transformer import Transformer
from shapes import models, shape

SEQUENCES, LENGTH, VOCABULARY = 8, 1024, 32768
SHAPE = shape(width=1024, layers=8, heads=16, head_dim=64, vocabulary=VOCABULARY)
MODELS = {
    name: settings
    for name, settings in models(columns=4096).items()
    if name in ("dense", "mixtral", "qwen3_moe")
}
PROMPT, NEW, BATCHES = 1024, 64, (1, 16)
WARM = 2


class Step:
    """One model with its optimiser; a call is one step on new tokens."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.device = device
        self.model = built(name, device)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
        self.losses: list[float] = []

    def __call__(self, ids: torch.Tensor) -> None:
        context = ForwardContext.packed(lengths(), device=self.device, balance_tokens=float(ids.numel()))
        h_TD = self.model(ids, context)
        loss = -token_logprobs(h_TD, self.model.head_weight, ids.roll(-1)).mean()
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.losses.append(loss.item())


def lengths() -> list[int]:
    """Documents of one batch: half of the sequences whole, half in unequal pieces."""
    pieces = [LENGTH // 2, LENGTH // 4, LENGTH // 8, LENGTH - LENGTH // 2 - LENGTH // 4 - LENGTH // 8]
    return [LENGTH] * (SEQUENCES - SEQUENCES // 2) + pieces * (SEQUENCES // 2)


def built(name: str, device: torch.device) -> Transformer:
    """A model with fresh weights in bfloat16."""
    model = Transformer(config_from_hf(SHAPE | MODELS[name]), compute_dtype=torch.bfloat16)
    model.initialise(0)
    return model.to(device, torch.bfloat16)


@contextmanager
def plain() -> Iterator[None]:
    """Without the kernels that exist on CUDA only: a loop over experts, and segments in padded batches."""
    with mock.patch.object(choose, "is_right", lambda kernel, device: False):
        yield


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has finished."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training(device: torch.device, rounds: int) -> dict[str, Any]:
    """Steps of all models in turn, with the kernels and without them."""
    steps = {name: Step(name, device) for name in MODELS}
    times: dict[str, list[float]] = {f"{name}{way}": [] for name in MODELS for way in ("", ", plain")}
    generator = torch.Generator().manual_seed(1)
    for number in range(rounds + WARM):
        ids = torch.randint(0, VOCABULARY, (SEQUENCES * LENGTH,), generator=generator).to(device)
        for name, step in steps.items():
            with plain():
                slow = timed(lambda: step(ids), device)  # noqa: B023 (called at once)
            fast = timed(lambda: step(ids), device)  # noqa: B023
            if number >= WARM:
                times[name].append(fast)
                times[f"{name}, plain"].append(slow)
    tokens = SEQUENCES * LENGTH
    return {
        "steps": {
            name: {
                "ms": round(1000 * median(own), 2),
                "tokens_per_second": round(tokens / median(own)),
                "over_dense": round(median_ratio(own, times["dense"]), 3),
            }
            for name, own in times.items()
        },
        "first_and_last_loss": {name: [step.losses[0], step.losses[-1]] for name, step in steps.items()},
        "peak_gpu_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def generation(name: str, device: torch.device, rounds: int) -> dict[str, Any]:
    """Reading a prompt, and decoding one and several sequences after it."""
    model = built(name, device).eval().requires_grad_(False)
    prompt = torch.randint(0, VOCABULARY, (PROMPT,), generator=torch.Generator().manual_seed(2)).tolist()
    result: dict[str, Any] = {}
    for way in ("kernels", "plain"):
        with plain() if way == "plain" else nullcontext():
            read = measure_prefill(model, prompt, rounds)
            result[f"prefill, {way}"] = {"ms": read.ms, "tokens_per_second": read.tokens_per_second}
            for batch in BATCHES:
                wrote = measure_decode(model, prompt, NEW, batch, max(1, rounds // 2))
                result[f"decode of {batch}, {way}"] = {
                    "ms_per_token": wrote.ms_per_token,
                    "tokens_per_second": wrote.tokens_per_second,
                }
    return result


def measured(
    device: torch.device, rounds: int, seconds: float, keep: Callable[[Any], None]
) -> dict[str, Any]:
    """Every part that begins within `seconds`; `keep` gets the record after each."""
    begun = time.perf_counter()
    record: dict[str, Any] = {
        "what": " ".join((__doc__ or "").split("\n\n    ")[0].split()),
        "environment": environment()
        | {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            "cuda": torch.version.cuda,
            "kernels": {kernel: cuda.is_right(kernel, device) for kernel in ("grouped_mm", "varlen")},
        },
        "rounds": rounds,
        "shape": SHAPE | {"sequences": SEQUENCES, "length": LENGTH, "prompt": PROMPT, "new": NEW},
        "models": MODELS,
        "parts": {},
        "left_out": [],
    }
    parts: dict[str, Callable[[], dict[str, Any]]] = {"training": lambda: training(device, rounds)}
    for name in MODELS:
        parts[f"generation, {name}"] = lambda name=name: generation(name, device, rounds)
    for title, work in parts.items():
        if time.perf_counter() - begun > seconds:
            record["left_out"].append(title)
            continue
        record["parts"][title] = work()
        print(f"== {title}: {record['parts'][title]}", flush=True)
        keep(record)
        gc.collect()
        torch.cuda.empty_cache()
    return record


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three rounds; prints, writes nothing")
    parser.add_argument("--minutes", type=float, default=7.0, help="no part begins after these")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_step.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(
            "bench/gpu_step.py: PyTorch sees no CUDA device; run it where torch.cuda.is_available()"
        )
    device = torch.device("cuda", torch.cuda.current_device())
    keep = (lambda record: None) if options.quick else (lambda record: write_json(options.out, record))
    record = measured(device, 3 if options.quick else options.rounds, 60 * options.minutes, keep)
    if not options.quick:
        keep(record)
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
