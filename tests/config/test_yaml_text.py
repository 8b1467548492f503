"""The reader of YAML text, and of settings files: limits, one line for anything wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from coterie.config import ConfigError
from coterie.config.base import apply_overrides, read_yaml
from coterie.config.yaml_text import YamlError, parse_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 30))
REFUSED = {
    "deep": ("[" * 5000, "deeper than 50"),
    "deep block": ("".join(" " * i + "a:\n" for i in range(300)), "deeper than 50"),
    "references that double": (BOMB, "more than 100,000 values"),
    "merges that double": (MERGES, "more than 100,000 values"),
    "a value inside itself": ("a: &a [*a]", "inside itself"),
    "key twice": ("a: 1\nb: 2\na: 3\n", "'a' twice \\(line 3\\)"),
    "key that is a list": ("? [1, 2]\n: 3\n", "not a single value"),
    "large": ("a: " + "x" * 300_000, "more than the 262,144 bytes"),
    "long number": ("a: " + "9" * 5000, "5000 characters"),
    "number to the base of 60": ("a: 1" + ":1" * 50_000, "characters"),
    "date": ("a: 2001-99-99", "not valid YAML"),
    "object": ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "not valid YAML"),
    "unknown reference": ("a: *b", "not valid YAML"),
    "not UTF-8": (b"a: \xff", "not UTF-8"),
    "surrogate": ("a: \ud800", "not UTF-8"),
    "control character": ("a: \x00", "not valid YAML"),
    "tab": ("a:\n\tb: 1", "not valid YAML"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_reason_soon(name: str) -> None:
    text, reason = REFUSED[name]
    started = time.process_time()
    with pytest.raises(YamlError, match=reason) as caught:
        parse_yaml(text)
    assert time.process_time() - started < 5
    assert len(str(caught.value)) < 400


def test_references_and_merges_of_ordinary_size_are_read() -> None:
    text = "base: &b {lr: 1, steps: 2}\nrun:\n  <<: *b\n  steps: 3\n"
    assert parse_yaml(text)["run"] == {"lr": 1, "steps": 3}
    assert parse_yaml("") is None and parse_yaml("- 1\n- a\n") == [1, "a"]


def test_a_settings_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, reason in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "pipe", "Not a regular file"),
        (tmp_path / "loop", "symbolic links"),
    ):
        with pytest.raises(ConfigError, match=reason) as caught:
            read_yaml(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    file.write_text("[" * 5000)
    with pytest.raises(ConfigError, match="deeper than 50"):
        read_yaml(file)


def test_a_hostile_override_is_one_line() -> None:
    for value in ("[" * 5000, "2001-99-99", "1" * 5000, "\ud800"):
        with pytest.raises(ConfigError) as caught:
            apply_overrides({}, [f"a.b={value}"])
        assert len(str(caught.value)) < 400
