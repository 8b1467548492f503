"""Ids that no embedding has are refused before `tokenizers` counts up to them."""

from __future__ import annotations

import json
import time

import pytest

from coterie.config import DataError
from coterie.text.added_tokens import check_ids
from coterie.text.tokenizer import Tokenizer


@pytest.mark.parametrize("place", ["vocab", "added"])
def test_a_huge_id_is_named_soon(place: str) -> None:
    content = json.loads(Tokenizer.train(["some words of text"], 300)._json)
    check_ids(json.dumps(content))
    if place == "vocab":
        content["model"]["vocab"]["<|endoftext|>"] = 2**31  # tokenizers took 100 s
    else:
        content["added_tokens"][0]["id"] = 2**31
    started = time.process_time()
    with pytest.raises(DataError, match=r"the id of '<\|endoftext\|>' is 2,147,483,648"):
        Tokenizer(json.dumps(content), {})
    assert time.process_time() - started < 5


def test_other_long_numbers_are_no_ids() -> None:
    check_ids('{"model": {"type": "Unigram", "vocab": [["a", -12.1234567891]], "x": 1234567890123}}')
