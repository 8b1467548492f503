"""The device and activation dtype of a run, by what the processor does well."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping

import torch

from coterie.config.errors import ConfigError
from coterie.config.system import processor_facts

_FAST_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


def choose_device(requested: str = "auto") -> torch.device:
    """The named device, or for `auto` CUDA where the machine has it and else the CPU.

    Errors: `ConfigError` for a name that PyTorch does not know, and for a device that this machine lacks.
    """
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError:
        raise ConfigError(f"device '{requested}': is not a device; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device '{requested}': this machine lacks a usable CUDA device; use device=cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device '{requested}': this machine has {torch.cuda.device_count()} CUDA device(s)"
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{requested}': only cpu and cuda are supported")
    return device


def choose_dtype(requested: str, device: torch.device) -> torch.dtype:
    """Dtype of activations. `auto` is bfloat16 on CUDA and on CPUs with bfloat16 instructions, else float32.

    float16 is never chosen: its CPU products are some 200 times slower than float32's, and it needs loss
    scaling.
    """
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if requested in named:
        return named[requested]
    if requested != "auto":
        raise ConfigError(f"dtype '{requested}': use auto, float32 or bfloat16")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if cpu_has_fast_bfloat16() else torch.float32


@functools.cache
def cpu_has_fast_bfloat16() -> bool:
    """By the processor's flags where the system lists them, else by measuring for about 50 ms."""
    facts = processor_facts()
    if facts:
        return has_bfloat16_flag(facts)
    return _product_seconds(torch.bfloat16) < 0.75 * _product_seconds(torch.float32)


def has_bfloat16_flag(facts: Mapping[str, str]) -> bool:
    """Whether `processor_facts` names a bfloat16 instruction set (x86 `flags`, Arm `Features`)."""
    named = facts.get("flags") or facts.get("Features") or ""
    return not _FAST_FLAGS.isdisjoint(named.split())


def _product_seconds(dtype: torch.dtype) -> float:
    """Best time of one 256 x 256 product within 25 ms."""
    x = torch.ones(256, 256, dtype=dtype)
    best, end = float("inf"), time.perf_counter() + 0.025
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(x, x)
        best = min(best, time.perf_counter() - start)
    return best
