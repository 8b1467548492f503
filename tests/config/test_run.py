"""The settings of a run: defaults, YAML, mistakes, the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coterie.config import ConfigError
from coterie.config.run import OptimiserConfig, ScheduleConfig, TrainConfig

PLAIN: dict[str, Any] = {"model": {"model_type": "qwen3", "hidden_size": 64}, "data": {}, "steps": 10}


def test_defaults_and_yaml_round_trip(tmp_path: Path) -> None:
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
def test_mistakes_are_one_line_that_names_the_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict(PLAIN | change)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_budget_in_tokens_becomes_steps() -> None:
    def steps(tokens: int) -> int:
        config = PLAIN | {"steps": None, "tokens": tokens, "batch_rows": 4, "accumulate": 2}
        return TrainConfig.from_dict(config).num_steps(128)

    assert [steps(n) for n in (1, 1024, 10_240, 10_751, 10_753)] == [1, 1, 10, 10, 11]
    assert TrainConfig.from_dict(PLAIN).num_steps(128) == 10
