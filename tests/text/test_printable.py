"""What a hostile server or file may write to a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.config.json_text import encodable
from coterie.text.printable import joined, printable, shown

TURNING = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")


@given(st.text(st.characters()))
def test_no_character_acts(text: str) -> None:
    for char in printable(text):
        assert char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(char) not in TURNING


ORDINARY = ("plain\ttext\n", "na\u00efve \u65e5\u672c\u3000\u8a9e", "a\u00a0b", "\U0001f469\u200d\U0001f680")


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert printable(text) == text


def test_escapes() -> None:
    assert printable("\x1b]0;title\x07\x9b31m\r\u202e") == "\\x1b]0;title\\x07\\x9b31m\\r\\u202e"
    assert shown("\x1b[2J") == "\x1b[2J", "a file receives the reply as it is"


@given(st.text(st.characters(codec=None)))
def test_joined_text_can_be_written(text: str) -> None:
    assert encodable(joined(text))
    if encodable(text):
        assert joined(text) == text
