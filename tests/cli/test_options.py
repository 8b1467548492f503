"""What shared options take: sizes and repeated NAME=PATH."""

from __future__ import annotations

import pytest

from coterie.cli.options import TEMPLATES, named_paths, parse_bytes
from coterie.config import ConfigError
from coterie.text.rendering import shipped_names


@pytest.mark.parametrize(
    ("text", "size"), [("1.5 G", 1_500_000_000), ("800MB", 800_000_000), ("20kb", 20_000), ("7", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text, "--memory") == size


@pytest.mark.parametrize("text", ["much", "0", "-1GB", "0.1"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="24GB or 800MB") as error:
        parse_bytes(text, "--memory")
    assert str(error.value).startswith(f"--memory {text}: ")


def test_named_paths() -> None:
    assert named_paths(["a=x", "b=y=z"], "--adapter") == {"a": "x", "b": "y=z"}
    for given, words in (
        (["a"], "write NAME=PATH"),
        (["=x"], "write NAME=PATH"),
        (["a=x", "a=y"], "more than once"),
    ):
        with pytest.raises(ConfigError, match=words):
            named_paths(given, "--adapter")


def test_help_names_the_shipped_templates() -> None:
    assert TEMPLATES.replace(" or ", ", ").split(", ") == shipped_names()
