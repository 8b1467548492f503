"""What stands in the way of other projects' tasks, in one line; also where none of them is installed."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.config import ConfigError
from coterie.config.evaluate import EvalConfig
from coterie.evaluate.harness import trouble
from coterie.evaluate.harness.trouble import one_line
from coterie.recipes.evaluate import benchmarks_of


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("lm-eval:arc_easy", r"lm-eval is not installed; run pip install 'coterie\[eval\]'"),
        ("inspect:arc_easy", r"inspect-ai is not installed; run pip install 'coterie\[inspect\]'"),
        ("garak:dan", r"garak is not installed; run pip install 'coterie\[garak\]'"),
        ("inspect:nowhere.py", r"inspect-ai is not installed; run pip install 'coterie\[inspect\]'"),
    ],
)
def test_a_package_that_is_missing_is_named(task: str, says: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(trouble, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=says) as caught:
        list(benchmarks_of(EvalConfig(model="m", tasks=(task,))))
    assert "\n" not in str(caught.value)


def said(error: Exception) -> str:
    with pytest.raises(ConfigError) as caught, one_line("tool:task", "tool"):
        raise error
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_errors_of_other_programs_are_one_line(monkeypatch: Any) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    assert said(ConnectionError("Couldn't reach 'a/b' on\nthe Hub")).startswith(
        "tool:task: needs the data set 'a/b', which is not on this machine, and it cannot be reached"
    )
    assert said(ModuleNotFoundError("No module named 'x'", name="x")) == (
        "tool:task: needs the package x; run pip install x"
    )
    assert said(ValueError("a\nb")) == "tool:task: cannot be used by tool (ValueError: a b)"
    assert said(ConfigError("mine")) == "mine"


def test_a_cause_is_read_too(monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outer = RuntimeError("failed")
    outer.__cause__ = OSError("offline mode is enabled")
    assert "needs something from the network (failed)" in said(outer) and "HF_HUB_OFFLINE is set" in said(
        outer
    )
