"""Each setting of a run has an effect or is refused, whatever source it comes from."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.config import ConfigError
from coterie.config.effects import Facts
from coterie.config.run import TrainConfig
from coterie.config.run_effects import TRAIN_EFFECTS, TUNE_EFFECTS
from coterie.config.tune import ALIASES, TuneConfig, merge_sources

PLAIN: dict[str, Any] = {"model": "m", "data": "d"}
# Whatever else is set, these count.
ALWAYS = set(
    "model data out accumulate clip_norm dtype device seed save_every keep log_every threads retention "
    "recompute track method "
    "objective steps row_length batch_rows packing eval on_bad control_tokens template".split()
)
# Setting -> a value, and settings that make it void.
VOID: dict[str, tuple[Any, dict[str, Any]]] = {
    "rank": (8, {"method": "full"}),
    "alpha": (8.0, {"method": "router"}),
    "dropout": (0.1, {"train": {"norm": "full"}}),
    "rank_rule": ("active", {"train": {"attention": "lora"}}),
    "bits": (4, {"method": "dora"}),
    "experts": ("e.json", {"method": "full"}),
    "train": ({"attention": "full"}, {"method": "esft", "experts": "e.json"}),
    "router": ("full", {"method": "esft", "experts": "e.json"}),
    "beta": (0.2, {"objective": "sft"}),
    "orpo_weight": (0.2, {"objective": "dpo"}),
    "epochs": (2.0, {"steps": 4}),
    "eval_every": (5, {"eval": 0.0}),
    "max_forgetting": (0.1, {"retention": "none"}),
    "optimiser": ({"momentum": 0.5}, {"lr": 1e-3}),
    "schedule": ({"decay_fraction": 0.5}, {"lr": 1e-3}),
}
MIXTURES = {"balance": "none", "balance_prompts": False, "guard": "stop"}


@pytest.mark.parametrize("name", VOID)
def test_a_void_setting_is_refused_in_either_order(name: str) -> None:
    value, others = VOID[name]
    for given in ({name: value} | others, others | {name: value}):
        with pytest.raises(ConfigError, match="no effect"):
            TuneConfig.from_dict(PLAIN | given)


def test_every_setting_is_in_the_table_or_always_counts() -> None:
    table = {name.split(".")[0] for name in TUNE_EFFECTS}
    assert set(TuneConfig.model_fields) == table | ALWAYS
    assert set(TUNE_EFFECTS) <= VOID.keys() | MIXTURES.keys() | {n for n in TUNE_EFFECTS if "." in n}
    assert {name.split(".")[0] for name in TRAIN_EFFECTS} <= set(TrainConfig.model_fields)


def test_a_dense_model_refuses_settings_of_mixtures() -> None:
    for name, value in MIXTURES.items():
        with pytest.raises(ConfigError, match=f"'{name}'.*mixture"):
            TuneConfig.from_dict(PLAIN | {name: value}).check_facts(Facts(moe=False))
    TuneConfig.from_dict(PLAIN).check_facts(Facts(moe=False, objective="sft"))


ROUNDING: list[tuple[dict[str, Any], str | None]] = [
    ({"load_in_4bit": True}, None),
    ({"load_in_4bit": True, "method": "qlora"}, None),
    ({"load_in_8bit": True, "adapter": "qlora"}, None),
    ({"load_in_4bit": False, "method": "lora"}, None),
    ({"load_in_4bit": False, "load_in_8bit": True}, None),
    *[
        ({"load_in_4bit": True, "method": name}, "rounds nothing")
        for name in ("lora", "dora", "full", "router")
    ],
    ({"load_in_8bit": True, "method": "lora"}, "rounds nothing"),
    ({"load_in_4bit": True, "load_in_8bit": True}, "both"),
    ({"load_in_4bit": True, "bits": 8}, "keep one"),
    ({"load_in_8bit": True, "bits": 4}, "keep one"),
    ({"load_in_4bit": False, "method": "qlora"}, "keep one"),
    ({"load_in_4bit": "yes"}, "true or false"),
]


@pytest.mark.parametrize(("given", "said"), ROUNDING)
def test_rounding_by_other_names_agrees_or_is_refused(given: dict[str, Any], said: str | None) -> None:
    for order in (list(given), list(given)[::-1]):
        settings = PLAIN | {key: given[key] for key in order}
        if said is not None:
            with pytest.raises(ConfigError, match=said):
                TuneConfig.from_dict(settings)
        else:
            config = TuneConfig.from_dict(settings)
            rounded = {"none": 0, "int4": 4, "int8": 8}[config.adapter().quant]
            assert rounded == (8 if given.get("load_in_8bit") else 4 if given.get("load_in_4bit") else 0)


def test_train_names_all_that_is_trained() -> None:
    config = TuneConfig.from_dict(PLAIN | {"train": {"experts": "lora"}})
    assert {group for group, how in config.treatments().items() if how != "freeze"} == {"experts"}
    both = TuneConfig.from_dict(PLAIN | {"train": {"experts": "lora"}, "router": "full"})
    assert {g: how for g, how in both.treatments().items() if how != "freeze"} == {
        "experts": "lora",
        "router": "full",
    }
    assert TuneConfig.from_dict(PLAIN).treatments()["attention"] == "lora"


def test_later_sources_count_under_any_name() -> None:
    file = {"lora_r": 8, "learning_rate": 1e-4, "schedule": {"kind": "constant"}}
    merged = merge_sources(
        file, {"rank": 4, "lr": 2e-4}, ["lora_alpha=5", "warmup=0.1", "learning_rate=3e-4"]
    )
    config = TuneConfig.from_dict(PLAIN | merged)
    assert (config.rank, config.alpha, config.optimiser.lr) == (4, 5, 3e-4)
    assert (config.schedule.kind, config.schedule.warmup_fraction) == ("constant", 0.1)
    with pytest.raises(ConfigError, match="rounds nothing"):
        TuneConfig.from_dict(PLAIN | merge_sources({"load_in_4bit": True}, {"method": "lora"}, []))
    layers = {"target_modules", "modules_to_save"}
    assert set(ALIASES.values()) <= {*TuneConfig.model_fields, *layers, "lr", "warmup"}


def test_stated_settings_hold_no_open_choice_and_read_back_alike() -> None:
    for given in ({}, {"method": "full"}, {"clip_norm": None}, {"steps": 3, "optimiser": {"name": "muon"}}):
        config = TuneConfig.from_dict(PLAIN | given)
        stated = config.to_dict()
        again = TuneConfig.from_dict(stated)
        assert again.to_dict() == stated
        assert {name for name, value in stated.items() if value is None} <= {"clip_norm"}
        assert ("rank" in stated) == (given.get("method") != "full")
        assert ("epochs" in stated) == ("steps" not in given)
        assert "beta" in stated or given.get("objective") is not None


def test_stated_settings_of_training_hold_no_null_in_a_list() -> None:
    given = {
        "model": {"model_type": "llama"},
        "data": {"sources": ["a", {"path": "b", "weight": 2.0}]},
        "steps": 3,
    }
    stated = TrainConfig.from_dict(given).to_dict()
    assert stated["data"]["sources"] == [{"path": "a", "weight": 1.0}, {"path": "b", "weight": 2.0}]
    assert TrainConfig.from_dict(stated).to_dict() == stated
