"""The index of a run by rewards has every problem that was asked, and the tokens that were trained on."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from coterie.config.errors import DataError
from coterie.contamination.items import QueriedItem
from coterie.contamination.query import query
from coterie.reinforce.indexed import index_rollouts
from tests.contamination.support import facts, words


def replies(folder: Path, group: int = 30) -> list[QueriedItem]:
    """Two steps of two groups; the second group of each step taught nothing."""
    rng = random.Random(3)
    asked = []
    for step in (1, 2):
        with gzip.open(folder / f"step-{step:06d}.jsonl.gz", "wt", encoding="utf-8") as file:
            for learnt in (True, False):
                prompt, answer = words(rng, 25), words(rng, 1)
                asked.append(QueriedItem(f"{step}-{learnt}", prompt, (answer,)))
                for _ in range(group):
                    reply = {"problem": f"{step}", "prompt": prompt, "answer": answer, "reasoning": None}
                    reply |= {"content": words(rng, 12), "ids": [1] * 9, "tokens": 40, "learnt": learnt}
                    file.write(json.dumps(reply) + "\n")
    return asked


def test_problems_are_found_though_every_reply_of_a_group_has_them(tmp_path: Path):
    asked = replies(tmp_path)
    index = index_rollouts(tmp_path, 2 * 30 * 39)
    assert index.header.tokens == 2 * 30 * 39
    found = query(asked, "", [(facts(index), index)])
    assert [one.label for one in found.findings] == ["question+answer"] * 4


def test_fewer_tokens_than_were_trained_on_are_an_error(tmp_path: Path):
    replies(tmp_path)
    with pytest.raises(DataError, match="replies of 2,340 tokens, and 2,341 were trained on"):
        index_rollouts(tmp_path, 2 * 30 * 39 + 1)


def test_a_damaged_file_is_one_line(tmp_path: Path):
    replies(tmp_path)
    path = tmp_path / "step-000002.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"step-000002.jsonl.gz: is damaged"):
        index_rollouts(tmp_path, 0)
