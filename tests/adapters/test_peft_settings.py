"""What adapter_config.json and a stamp may hold: wrong types, ranks and patterns are one line, soon."""

from __future__ import annotations

import time
from typing import Any

import pytest

from coterie.adapters.peft_settings import check_settings_types, check_stamp_types, path_pattern
from coterie.config import CheckpointError

GOOD: dict[str, Any] = {
    "r": 8,
    "lora_alpha": 16.5,
    "rank_pattern": {"q_proj": 4},
    "alpha_pattern": {},
    "target_modules": ["q_proj"],
    "target_parameters": None,
    "modules_to_save": None,
    "use_dora": False,
    "base_model_name_or_path": None,
}
WRONG: list[tuple[str, Any]] = [
    ("r", 0),
    ("r", -1),
    ("r", "8"),
    ("r", 8.0),
    ("r", True),
    ("r", 2**40),
    ("r", [8]),
    ("lora_alpha", "16"),
    ("lora_alpha", float("nan")),
    ("lora_alpha", float("inf")),
    ("lora_alpha", True),
    ("rank_pattern", 5),
    ("rank_pattern", ["q_proj"]),
    ("rank_pattern", {"q_proj": "4"}),
    ("rank_pattern", {"q_proj": 0}),
    ("alpha_pattern", {"q_proj": None}),
    ("target_modules", 5),
    ("target_modules", [5]),
    ("target_parameters", "x"),
    ("modules_to_save", {"x": 1}),
    ("use_rslora", "yes"),
    ("use_dora", 1),
    ("base_model_name_or_path", ["x"]),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: str(value)[:20])
def test_a_value_of_another_type_is_named(name: str, value: Any) -> None:
    check_settings_types(GOOD, "a")
    with pytest.raises(CheckpointError, match=f"a: adapter_config.json has '{name}'"):
        check_settings_types(GOOD | {name: value}, "a")


@pytest.mark.parametrize(
    "stamp",
    [
        5,
        [],
        {"layout": []},
        {"config": 5},
        {"experts": {"x": 1}},
        {"experts": {"x": [-1]}},
        {"experts": {"x": ["0"]}},
        {"base": []},
        {"base": {"tensors": {"x": 1}}},
        {"base": {"path": 5}},
        {"peft_cannot": 5},
    ],
)
def test_a_stamp_of_nonsense_is_refused(stamp: Any) -> None:
    with pytest.raises(CheckpointError, match="a: "):
        check_stamp_types(stamp, "a")


@pytest.mark.parametrize(
    "text",
    [
        "q_proj",
        r".*\.gate_up_proj",
        r"model\.layers\.(0|1|2)\.self_attn\.q_proj",
        r"layers\.[0-9]+\.mlp\.(gate|up)_proj",
        r"(?:q|k)_proj",
        r".*layers.*self_attn.*q_proj.*",
        r"layers\.\d{1,2}\..*",
    ],
)
def test_patterns_that_people_write_are_taken(text: str) -> None:
    assert path_pattern(text, "a").pattern.endswith(f"({text})")


@pytest.mark.parametrize(
    "text",
    [
        "(a+)+$",
        "((a*)*)*b",
        "(a|a)*b",
        "(a|ab)+c",
        "(.*)*",
        "(a{1,9}){1,99}b",
        r"(\w+\s?)*$",
        "([a-z]+)*!",
        "(?:a+)+b",
        "(?P<x>a+)+b",
        ".*" * 20 + "!",
        "a" * 10_000,
        "(",
        "[",
        "a{99999999999}",
        "(?P<x",
        "*",
    ],
)
def test_a_pattern_that_would_search_for_ever_or_is_none_is_refused(text: str) -> None:
    started = time.process_time()
    with pytest.raises(CheckpointError, match=r"a: adapter_config\.json has a pattern"):
        path_pattern(text, "a").fullmatch("a" * 60)
    assert time.process_time() - started < 5
