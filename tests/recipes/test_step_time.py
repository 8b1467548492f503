"""The measured prediction of a step's time, layer by layer."""

from __future__ import annotations

import itertools

import pytest

from coterie.families import config_from_hf
from coterie.plan.tuning import TuneSettings
from coterie.recipes import step_time
from coterie.recipes.step_time import step_seconds, step_trainer
from tests.families.hf import CONFIGS
from tests.plan.test_tuning import MOE, SHAPE


def test_layers_of_each_kind_count_as_often_as_the_model_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_from_hf(
        SHAPE | CONFIGS["qwen3_moe"] | {"num_hidden_layers": 7, "mlp_only_layers": [1, 4], "head_dim": 16}
    )
    cost = {"moe": 3.0, "dense": 2.0}  # seconds a layer; everything else takes 0.5

    def took(_config, block, number, *_rest) -> float:
        return 0.5 + number * cost[block.ffn.kind]

    monkeypatch.setattr(step_time, "_time", took)
    assert step_seconds(config, TuneSettings(accumulate=2)) == pytest.approx(2 * (0.5 + 5 * 3.0 + 2 * 2.0))


@pytest.mark.parametrize("method", ["full", "lora", "esft", "router"])
def test_the_measured_trainer_trains_what_the_settings_say(method: str) -> None:
    settings = TuneSettings(method=method, rank=2, row_length=16, batch_rows=2)
    trainer = step_trainer(config_from_hf(MOE), settings)
    record = trainer.step()
    assert record["tokens"] == 32
    groups = {name.split(".")[-1] for name in trainer.optimiser.parameters}
    expected = {"lora": {"lora_A", "lora_B"}, "esft": {"subset_weight"}, "router": {"weight"}}
    assert method == "full" or groups == expected[method]


def test_the_clock_is_read_for_every_step() -> None:
    ticks = itertools.count()
    seconds = step_seconds(
        config_from_hf(MOE),
        TuneSettings(row_length=8, batch_rows=1),
        budget=0.01,
        clock=lambda: float(next(ticks)),
    )
    # Each step is between two readings, so one layer and two take the same time and all of it is "the rest".
    assert seconds == 1.0
