"""Names of models on the hub."""

from __future__ import annotations

import pytest

from coterie.hub.names import HubName, is_commit


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("owner/name", ("owner/name", None, None)),
        ("owner/name-1.5_b@v1.0", ("owner/name-1.5_b", "v1.0", None)),
        ("owner/name@refs/pr/1", ("owner/name", "refs/pr/1", None)),
        ("owner/name:Q4_K_M", ("owner/name", None, "Q4_K_M")),
        ("owner/name@main:UD-Q4_K_XL", ("owner/name", "main", "UD-Q4_K_XL")),
    ],
)
def test_names(text: str, parts: tuple[str, str | None, str | None]):
    name = HubName.parse(text)
    assert name == HubName(*parts) and str(name) == text


@pytest.mark.parametrize(
    "text", ["name", "./a/b", "/a/b", "a/b/c", "a/b@", "a/b:", "a b/c", "a/b@x y", "a/.."]
)
def test_other_texts_are_no_names(text: str):
    assert HubName.parse(text) is None


def test_only_a_whole_hash_is_a_commit():
    assert is_commit("0" * 40) and not is_commit("0" * 39) and not is_commit("main")
