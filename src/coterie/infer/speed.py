"""Speed of reading prompts and of decoding: medians over repeats, through the engine used everywhere."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from coterie.config import ConfigError
from coterie.infer.engine import Engine
from coterie.infer.sampling import SamplingParams
from coterie.nn.transformer import Transformer


def measure_decode(
    model: Transformer, prompt_ids: Sequence[int], num_tokens: int = 64, batch: int = 1, repeats: int = 3
) -> dict[str, float]:
    """Greedy decoding after the prompt has been read, `batch` copies of it at once.

    Returns medians over `repeats` runs (one more, unmeasured, comes first): `tokens_per_second` (of all
    sequences together), `ms_per_token` (of one step), and `spread` ((slowest - fastest) / median),
    `cache_bytes` at the end.
    Errors: `CoterieError` when prompt and reply do not fit in the model's positions.
    """
    if num_tokens < 1 or batch < 1 or repeats < 1:
        raise ConfigError(
            f"speed: tokens {num_tokens}, batch {batch} and repeats {repeats} must be at least 1"
        )
    # One token is drawn when the prompt is read, and one is never requested, so that no sequence finishes
    # while time is measured.
    room = model.config.max_positions - len(prompt_ids) - 2
    if num_tokens > room:
        raise ConfigError(
            f"speed: {num_tokens} tokens after this prompt do not fit; the model has room for {room}"
        )
    params = SamplingParams(temperature=0, max_tokens=num_tokens + 2, stop_ids=())
    seconds: list[float] = []
    cache_bytes = 0
    for _ in range(repeats + 1):
        engine = Engine(model, max_batch=batch, prefill_chunk=batch * max(1, len(prompt_ids)))
        for _ in range(batch):
            engine.add(prompt_ids, params)
        engine.step()
        _wait(model)
        start = time.perf_counter()
        for _ in range(num_tokens):
            engine.step()
        _wait(model)
        seconds.append(time.perf_counter() - start)
        cache_bytes = engine.cache_bytes
    median = statistics.median(seconds[1:])
    return {
        "tokens_per_second": batch * num_tokens / median,
        "ms_per_token": 1000 * median / num_tokens,
        "spread": (max(seconds[1:]) - min(seconds[1:])) / median,
        "cache_bytes": float(cache_bytes),
    }


def measure_prefill(model: Transformer, prompt_ids: Sequence[int], repeats: int = 3) -> dict[str, float]:
    """Time to read a prompt and draw the first token.

    Returns medians over `repeats` runs after an unmeasured one: `tokens_per_second`, `ms` and `spread`.
    """
    if repeats < 1:
        raise ConfigError(f"speed: repeats {repeats} must be at least 1")
    params = SamplingParams(temperature=0, max_tokens=1, stop_ids=())
    seconds: list[float] = []
    for _ in range(repeats + 1):
        engine = Engine(model)
        _wait(model)
        start = time.perf_counter()
        engine.generate([prompt_ids], params)
        _wait(model)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])
    return {
        "tokens_per_second": len(prompt_ids) / median,
        "ms": 1000 * median,
        "spread": (max(seconds[1:]) - min(seconds[1:])) / median,
    }


def _wait(model: Transformer) -> None:
    """Wait for the GPU, which runs asynchronously, so that timed work is complete."""
    if model.embed.weight.device.type == "cuda":
        torch.cuda.synchronize()
