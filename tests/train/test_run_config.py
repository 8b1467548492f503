"""The run's settings, and the choice of device and dtype."""

import pytest
import torch

from coterie.config import ConfigError
from coterie.config.run import OptimiserConfig, ScheduleConfig, TrainConfig
from coterie.machine import device, system
from coterie.train import choose_device, choose_dtype

PLAIN = {"model": {"model_type": "qwen3", "hidden_size": 64}, "data": {}, "steps": 10}


def test_defaults_and_yaml_round_trip(tmp_path):
    config = TrainConfig.from_dict(PLAIN)
    assert config.optimiser == OptimiserConfig() and config.schedule == ScheduleConfig()
    config.to_yaml(tmp_path / "a.yaml")
    assert TrainConfig.from_yaml(tmp_path / "a.yaml") == config
    changed = TrainConfig.from_yaml(tmp_path / "a.yaml", ["optimiser.lr=3e-4", "schedule.kind=cosine"])
    assert changed.optimiser.lr == 3e-4 and changed.schedule.kind == "cosine"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": 3}, "unknown key 'step' (did you mean 'steps'?)"),
        ({"optimiser": {"weight_decy": 0}}, "did you mean 'weight_decay'?"),
        ({"tokens": 5}, "as 'tokens' or as 'steps'"),
        ({"steps": None}, "as 'tokens' or as 'steps'"),
        ({"model": {"hidden_size": 3}}, "'model_type'"),
        ({"model": {"from": "x", "hidden_size": 3}}, "remove the other model keys"),
        ({"optimiser": {"betas": [0.9, 1.0]}}, "betas"),
        ({"optimiser": {"lr": 0}}, "optimiser.lr"),
        ({"schedule": {"warmup_fraction": 0.6, "decay_fraction": 0.6}}, "must not be more than 1"),
        ({"dtype": "float16"}, "dtype"),
        ({"keep": 0}, "keep"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(change, said):
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict(PLAIN | change)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_budget_in_tokens_becomes_steps():
    def steps(tokens):
        config = PLAIN | {"steps": None, "tokens": tokens, "batch_rows": 4, "accumulate": 2}
        return TrainConfig.from_dict(config).num_steps(128)

    assert [steps(n) for n in (1, 1024, 10_240, 10_751, 10_753)] == [1, 1, 10, 10, 11]
    assert TrainConfig.from_dict(PLAIN).num_steps(128) == 10


def test_device_and_dtype_by_name():
    cpu = torch.device("cpu")
    assert choose_device("cpu") == cpu
    assert choose_dtype("float32", cpu) == torch.float32 and choose_dtype("bfloat16", cpu) == torch.bfloat16
    for wrong in ("gpu", "meta"):
        with pytest.raises(ConfigError, match=f"device '{wrong}'"):
            choose_device(wrong)
    with pytest.raises(ConfigError, match="use auto, float32 or bfloat16"):
        choose_dtype("float16", cpu)


def test_a_missing_cuda_device_is_said(monkeypatch):
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
def test_bfloat16_flags(cpuinfo, fast, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(system, "_CPUINFO", tmp_path / "cpuinfo")
    assert device.has_bfloat16_flag(system.processor_facts()) is fast
    device.cpu_has_fast_bfloat16.cache_clear()
    expected = torch.bfloat16 if fast else torch.float32
    assert choose_dtype("auto", torch.device("cpu")) == expected
    device.cpu_has_fast_bfloat16.cache_clear()


@pytest.mark.parametrize(("seconds", "fast"), [(0.5, True), (0.8, False), (200.0, False)])
def test_without_flags_the_products_are_measured(tmp_path, monkeypatch, seconds, fast):
    monkeypatch.setattr(system, "_CPUINFO", tmp_path / "none")
    assert device._product_seconds(torch.float32) < 1
    monkeypatch.setattr(device, "_product_seconds", lambda dtype: seconds if dtype == torch.bfloat16 else 1.0)
    device.cpu_has_fast_bfloat16.cache_clear()
    assert device.cpu_has_fast_bfloat16() is fast
    device.cpu_has_fast_bfloat16.cache_clear()
