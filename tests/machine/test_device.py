"""The choice of device and dtype: by name, by the processor's flags, by measurement."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coterie.config import ConfigError, system
from coterie.machine import device
from coterie.machine.device import choose_device, choose_dtype


def test_device_and_dtype_by_name() -> None:
    cpu = torch.device("cpu")
    assert choose_device("cpu") == cpu
    assert choose_dtype("float32", cpu) == torch.float32 and choose_dtype("bfloat16", cpu) == torch.bfloat16
    for wrong in ("gpu", "meta"):
        with pytest.raises(ConfigError, match=f"device '{wrong}'"):
            choose_device(wrong)
    with pytest.raises(ConfigError, match="use auto, float32 or bfloat16"):
        choose_dtype("float16", cpu)


def test_a_missing_cuda_device_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="device=cpu"):
        choose_device("cuda:0")


@pytest.mark.parametrize(
    ("cpuinfo", "fast"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags\t\t: amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx2 avx512f\nbugs\t\t: avx512_bf16\n", False),
        ("processor\t: 0\n", False),
    ],
)
def test_bfloat16_flags(cpuinfo: str, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(system, "_CPUINFO", tmp_path / "cpuinfo")
    assert device.has_bfloat16_flag(system.processor_facts()) is fast
    device.cpu_has_fast_bfloat16.cache_clear()
    expected = torch.bfloat16 if fast else torch.float32
    assert choose_dtype("auto", torch.device("cpu")) == expected
    device.cpu_has_fast_bfloat16.cache_clear()


@pytest.mark.parametrize(("seconds", "fast"), [(0.5, True), (0.8, False), (200.0, False)])
def test_without_flags_the_products_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, fast: bool
) -> None:
    monkeypatch.setattr(system, "_CPUINFO", tmp_path / "none")
    assert device._product_seconds(torch.float32) < 1
    monkeypatch.setattr(device, "_product_seconds", lambda dtype: seconds if dtype == torch.bfloat16 else 1.0)
    device.cpu_has_fast_bfloat16.cache_clear()
    assert device.cpu_has_fast_bfloat16() is fast
    device.cpu_has_fast_bfloat16.cache_clear()
