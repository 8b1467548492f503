"""Lists of layers as PEFT spells them become groups, or one line that says why they cannot."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.config import ConfigError
from coterie.config.tune import TuneConfig

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"]


def tuned(**settings: Any) -> dict[str, str]:
    config = TuneConfig.from_dict({"model": "m", "data": "d"} | settings, "test")
    return {group: how for group, how in config.treatments().items() if how != "freeze"}


@pytest.mark.parametrize(("names", "groups"), [
    (ATTENTION, ["attention"]),
    (FEED_FORWARD, ["experts", "shared", "dense"]),
    ([*ATTENTION, *FEED_FORWARD], ["attention", "experts", "shared", "dense"]),
    ("all-linear", ["attention", "experts", "shared", "dense"]),
    (["model.layers.0.self_attn.qkv_proj", "o_proj"], ["attention"]),
    ([*ATTENTION, "lm_head"], ["attention", "head"]),
])  # fmt: skip
def test_whole_groups_are_understood(names: Any, groups: list[str]) -> None:
    assert sorted(tuned(target_modules=names)) == sorted(groups)
    assert set(tuned(lora_target_modules=names).values()) == {"lora"}


def test_modules_to_save_are_trained_whole() -> None:
    found = tuned(target_modules=ATTENTION, modules_to_save=["embed_tokens", "lm_head"])
    assert found == {"attention": "lora", "embedding": "full", "head": "full"}
    assert tuned(modules_to_save=["lm_head"])["experts"] == "lora"


@pytest.mark.parametrize(("settings", "message"), [
    ({"target_modules": ["q_proj", "v_proj"]}, "a part of attention.*add k_proj, o_proj"),
    ({"target_modules": ["down_proj"]}, "a part of experts"),
    ({"target_modules": ["query_key"]}, "'query_key' is not the name"),
    ({"target_modules": 3}, "give a list of names"),
    ({"modules_to_save": ["score"]}, "'score' is not the name"),
    ({"target_modules": ATTENTION, "train": {"attention": "lora"}}, "keep one"),
])  # fmt: skip
def test_what_cannot_be_done_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        tuned(**settings)
    assert "\n" not in str(caught.value)


def test_other_names_of_the_same_settings() -> None:
    settings = {"model": "m", "data": "d", "gradient_checkpointing": True, "report_to": "wandb"}
    config = TuneConfig.from_dict(settings, "test")
    assert config.recompute and config.track == "wandb"
