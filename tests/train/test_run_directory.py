"""A directory holds one run: other settings or inputs are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.config import ConfigError
from coterie.config.run import TrainConfig
from coterie.config.tune import TuneConfig
from coterie.train.run_directory import (
    INPUTS,
    SETTINGS,
    check_same_inputs,
    check_same_run,
    write_inputs,
    write_settings,
)

WORDS = ("tokenizer", "chat template", "base (the weights of the model)", "set of examples (the data)")


@pytest.mark.parametrize("changed", WORDS)
def test_a_run_goes_on_over_the_same_inputs_only(changed: str, tmp_path: Path) -> None:
    before = dict.fromkeys(WORDS, "1" * 64)
    write_inputs(tmp_path, before)
    after = before | {changed: "2" * 64}
    check_same_inputs(tmp_path, after)  # nothing was saved, so nothing goes on
    (tmp_path / "checkpoints" / "step-000005").mkdir(parents=True)
    check_same_inputs(tmp_path, before)
    with pytest.raises(ConfigError) as caught:
        check_same_inputs(tmp_path, after)
    assert changed in str(caught.value) and "\n" not in str(caught.value) and "restore" in str(caught.value)
    (tmp_path / INPUTS).unlink()
    check_same_inputs(tmp_path, after)  # a run of an earlier version


def test_settings_are_compared_as_far_as_they_make_a_choice(tmp_path: Path) -> None:
    plain = {"model": "m", "data": "d", "out": str(tmp_path)}
    stated = {"model": "m", "data": ["d"], "dtype": "float32", "steps": 8, "train": {"attention": "lora"}}
    stated |= {"optimiser": {"lr": 0.5}, "threads": 2}
    write_settings(tmp_path, stated)
    for same in ({}, {"epochs": 9.0}, {"dtype": "float32", "threads": 1}, {"lr": 0.5}):
        check_same_run(TuneConfig.from_dict(plain | same), tmp_path / SETTINGS)
    for key, value in (("dtype", "bfloat16"), ("steps", 9), ("lr", 0.25), ("train", {"dense": "lora"})):
        with pytest.raises(ConfigError, match=f"another '(optimiser.)?{key}'"):
            check_same_run(TuneConfig.from_dict(plain | {key: value}), tmp_path / SETTINGS)
    with pytest.raises(ConfigError, match="another 'steps'"):
        check_same_run(TuneConfig.from_dict(plain), tmp_path / SETTINGS, stated | {"steps": 9})


def test_nulls_that_earlier_versions_wrote_are_no_other_settings(tmp_path: Path) -> None:
    config = TrainConfig.from_dict({"model": {"model_type": "llama"}, "data": {"sources": ["a"]}, "steps": 3})
    earlier = config.to_dict()
    earlier["data"]["sources"][0] |= {"name": None, "max_bytes": None}
    write_settings(tmp_path, earlier)
    check_same_run(config, tmp_path / SETTINGS)
    earlier["data"]["sources"][0]["weight"] = 2.0
    write_settings(tmp_path, earlier)
    with pytest.raises(ConfigError, match=r"another 'data\.sources'"):
        check_same_run(config, tmp_path / SETTINGS)
