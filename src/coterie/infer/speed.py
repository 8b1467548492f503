"""Speed of reading prompts and of decoding: medians over repeats, through the engine used everywhere."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from coterie.config import ConfigError
from coterie.config.kernels import Kernels
from coterie.infer.engine import Engine
from coterie.infer.sampling import SamplingParams
from coterie.nn.transformer import Transformer


@dataclass(frozen=True)
class DecodeSpeed:
    """Medians over repeats of decoding.

    `tokens_per_second`: of all sequences together. `ms_per_token`: of one step. `spread`: (slowest - fastest)
    / median. `cache_bytes`: of all key/value caches at the end. `kernels`: what the steps ran on, in words.
    """

    tokens_per_second: float
    ms_per_token: float
    spread: float
    cache_bytes: int
    kernels: str


@dataclass(frozen=True)
class PrefillSpeed:
    """Medians over repeats of reading a prompt; `spread` is (slowest - fastest) / median."""

    tokens_per_second: float
    ms: float
    spread: float


def measure_decode(
    model: Transformer,
    prompt_ids: Sequence[int],
    num_tokens: int = 64,
    batch: int = 1,
    repeats: int = 3,
    kernels: Kernels = "auto",
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

    def read() -> Engine:
        chunk = batch * max(1, len(prompt_ids))
        engine = Engine(model, max_batch=batch, prefill_chunk=chunk, kernels=kernels)
        assert engine.kernels_used  # what the first decoding step would compile, compiled now
        for _ in range(batch):
            engine.add(prompt_ids, params)
        engine.step()
        return engine

    def decode(engine: Engine) -> None:
        for _ in range(num_tokens):
            engine.step()

    median, spread, engine = _timed(model, read, decode, repeats)
    step = 1000 * median / num_tokens
    return DecodeSpeed(batch * num_tokens / median, step, spread, engine.cache_bytes, engine.kernels_used)


def measure_prefill(model: Transformer, prompt_ids: Sequence[int], repeats: int = 3) -> PrefillSpeed:
    """Time to read a prompt and draw the first token.

    The medians are over `repeats` runs after an unmeasured one. Errors: `CoterieError` for a wrong prompt.
    """
    if repeats < 1:
        raise ConfigError(f"speed: repeats {repeats} must be at least 1")
    params = SamplingParams(temperature=0, max_tokens=1, stop_ids=())
    median, spread, _ = _timed(
        model, lambda: Engine(model), lambda engine: engine.generate([prompt_ids], params), repeats
    )
    return PrefillSpeed(len(prompt_ids) / median, 1000 * median, spread)


def _timed(
    model: Transformer, prepare: Callable[[], Engine], work: Callable[[Engine], object], repeats: int
) -> tuple[float, float, Engine]:
    """Median seconds and spread of `work` over `repeats` runs after an unmeasured one, and the last engine.

    Each run works on a new engine of `prepare`, which is not timed.
    """
    seconds = []
    for _ in range(repeats + 1):
        engine = prepare()
        start = _now(model)
        work(engine)
        seconds.append(_now(model) - start)
    median = statistics.median(seconds[1:])
    return median, (max(seconds[1:]) - min(seconds[1:])) / median, engine


def _now(model: Transformer) -> float:
    """The clock in seconds. A GPU runs asynchronously, so this waits until its work is complete."""
    if model.embed.weight.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
