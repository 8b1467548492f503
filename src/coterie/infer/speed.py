"""Speed of reading prompts and of decoding: medians over repeats, through the engine used everywhere."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from coterie.config import ConfigError
from coterie.infer.engine import Engine
from coterie.infer.sampling import SamplingParams
from coterie.nn.transformer import Transformer


@dataclass(frozen=True)
class DecodeSpeed:
    """Medians over repeats of decoding.

    `tokens_per_second`: of all sequences together. `ms_per_token`: of one step. `spread`: (slowest - fastest)
    / median. `cache_bytes`: of all key/value caches at the end.
    """

    tokens_per_second: float
    ms_per_token: float
    spread: float
    cache_bytes: int


@dataclass(frozen=True)
class PrefillSpeed:
    """Medians over repeats of reading a prompt; `spread` is (slowest - fastest) / median."""

    tokens_per_second: float
    ms: float
    spread: float


def measure_decode(
    model: Transformer, prompt_ids: Sequence[int], num_tokens: int = 64, batch: int = 1, repeats: int = 3
) -> DecodeSpeed:
    """Greedy decoding after the prompt has been read, `batch` copies of it at once.

    The medians are over `repeats` runs after an unmeasured one.
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
    cache_bytes = 0

    def run() -> float:
        nonlocal cache_bytes
        engine = Engine(model, max_batch=batch, prefill_chunk=batch * max(1, len(prompt_ids)))
        for _ in range(batch):
            engine.add(prompt_ids, params)
        engine.step()
        _wait(model)
        start = time.perf_counter()
        for _ in range(num_tokens):
            engine.step()
        _wait(model)
        seconds = time.perf_counter() - start
        cache_bytes = engine.cache_bytes
        return seconds

    median, spread = _repeated(run, repeats)
    return DecodeSpeed(batch * num_tokens / median, 1000 * median / num_tokens, spread, cache_bytes)


def measure_prefill(model: Transformer, prompt_ids: Sequence[int], repeats: int = 3) -> PrefillSpeed:
    """Time to read a prompt and draw the first token.

    The medians are over `repeats` runs after an unmeasured one. Errors: `CoterieError` for a wrong prompt.
    """
    if repeats < 1:
        raise ConfigError(f"speed: repeats {repeats} must be at least 1")
    params = SamplingParams(temperature=0, max_tokens=1, stop_ids=())

    def run() -> float:
        engine = Engine(model)
        _wait(model)
        start = time.perf_counter()
        engine.generate([prompt_ids], params)
        _wait(model)
        return time.perf_counter() - start

    median, spread = _repeated(run, repeats)
    return PrefillSpeed(len(prompt_ids) / median, 1000 * median, spread)


def _repeated(run: Callable[[], float], repeats: int) -> tuple[float, float]:
    """Median seconds and spread of `repeats` runs after an unmeasured one."""
    seconds = [run() for _ in range(repeats + 1)][1:]
    median = statistics.median(seconds)
    return median, (max(seconds) - min(seconds)) / median


def _wait(model: Transformer) -> None:
    """Wait for the GPU, which runs asynchronously, so that timed work is complete."""
    if model.embed.weight.device.type == "cuda":
        torch.cuda.synchronize()
