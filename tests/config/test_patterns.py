"""Patterns that could hang are told from those of real files."""

from __future__ import annotations

import pytest

from coterie.config.patterns import may_explode


@pytest.mark.parametrize("text", ["(a+)+b", "(a|a)*", "((x+)y)*", "(.*a){9}", "a*" * 30])
def test_what_could_hang(text: str) -> None:
    assert may_explode(text)


@pytest.mark.parametrize("text", [r".*\.18\..*gate.*", ".*self_attn.*", r"model\.layers\.(0|1)\.mlp.*proj$"])
def test_what_files_have(text: str) -> None:
    assert not may_explode(text)
