"""The sampling settings of replies in the terminal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from coterie.cli.connect import connect, recommended
from coterie.config import ConfigError
from coterie.infer.defaults import sampling_defaults


@pytest.mark.parametrize(
    ("named", "temperature", "top_p"),
    [
        ({}, 0.7, 0.95),
        ({"eos_token_id": 1, "temperature": None}, 0.7, 0.95),
        ({"temperature": 1.0, "top_p": 1.0}, 1.0, 1.0),
        ({"temperature": 0.6}, 0.6, 1.0),
        ({"do_sample": False}, 0.0, 1.0),
        ({"do_sample": True}, 1.0, 1.0),
    ],
)
def test_the_settings_of_the_directory_come_first(
    named: dict[str, Any], temperature: float, top_p: float
) -> None:
    checkpoint = SimpleNamespace(generation_config=named)
    model: Any = SimpleNamespace(sampling=sampling_defaults(named), checkpoint=checkpoint)
    found = recommended(model)
    assert (found.temperature, found.top_p) == (temperature, top_p)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"quant": "int8"}, "what it holds weights in"), ({"kernels": "torch"}, "what it computes on")],
)
def test_a_server_chooses_its_own_forms(given: dict[str, str], words: str) -> None:
    with (
        pytest.raises(ConfigError, match=f"http://x: a server chooses {words}; leave out --"),
        connect("http://x", "float32", None, None, **given),
    ):
        pass
