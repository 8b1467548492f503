"""A new tuning method is one record: settings, recipe and planner find it by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.config import ConfigError
from coterie.config.methods import METHODS, TuningMethod
from coterie.config.tune import TuneConfig
from coterie.families import config_from_hf
from coterie.plan.tuning import TuneSettings, plan_tune, trained_parameters
from coterie.recipes.step_time import step_trainer
from coterie.train.objectives import default_lr
from tests.plan.test_tuning import MOE
from tests.recipes.tuned import base, conversations, report_of, tensors, tuned


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors on attention alone, and the routers in full."""
    record = TuningMethod({"attention": "lora", "router": "full"}, "factors", (1e-2, 1e-3, 1e-4), held=1.5)
    monkeypatch.setitem(METHODS, "toy", record)


def test_a_new_method_tunes_and_its_result_is_read_back(tmp_path: Path) -> None:
    data = conversations(tmp_path / "c.jsonl")
    result = tuned(base(tmp_path, "qwen3_moe"), data, tmp_path / "out", method="toy", steps=2)
    assert result.kind == "adapter" and result.path is not None
    assert {entry.group for entry in report_of(result).coverage} == {"attention", "router"}
    assert all("self_attn" in name or "gate" in name for name in tensors(result.path))
    config = TuneConfig.from_dict({"model": "m", "data": "d", "method": "toy"})
    assert (
        default_lr(config.method, "sft", 1_000) == 1e-2 and default_lr(config.method, "sft", 10**10) == 1e-4
    )


def test_a_new_method_is_planned_and_timed() -> None:
    config, settings = config_from_hf(MOE), TuneSettings(method="toy", rank=2, row_length=16, batch_rows=2)
    trainer = step_trainer(config, settings)
    built = sum(parameter.numel() for parameter in trainer.optimiser.parameters.values())
    assert trained_parameters(config, settings) == built
    assert plan_tune(config, settings).parameters["trained"] == built


def test_an_unknown_method_gets_the_closest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'lorra' \(did you mean 'lora'\?\)"):
        TuneConfig.from_dict({"model": "m", "data": "d", "method": "lorra"})
