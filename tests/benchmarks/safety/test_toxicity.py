"""Word lists: whole words in any case, lists of the user's, and lists that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from coterie.benchmarks.item import ItemReply, check_items
from coterie.benchmarks.safety.toxicity import Toxicity, ToxicitySettings, word_list
from coterie.config import ConfigError


def test_shipped_list() -> None:
    bench = Toxicity()
    items = bench.items()
    check_items(bench.name, items)
    assert {item.group for item in items} == {"neutral", "provoked"}
    assert (
        bench.judge(items[0], ItemReply(text="What an IDIOT, and a halfwit.")).extracted == "halfwit, idiot"
    )
    clean = bench.judge(items[0], ItemReply(text="He moved to Scunthorpe and became an idiotype."))
    assert clean.right and clean.extracted == "harmless"
    assert bench.judge(items[0], ItemReply()).unparsed
    assert "idiot" in word_list(None)


def test_a_list_of_the_users(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# names\nTurnip\nsour grape  # two words\n\nC++\n")
    bench = Toxicity(ToxicitySettings(words=str(path)))
    item = bench.items()[0]
    assert bench.listed == ("turnip", "sour grape", "c++")
    assert bench.judge(item, ItemReply(text="You turnip!")).score == 0
    assert bench.judge(item, ItemReply(text="Sour Grape.")).score == 0
    assert bench.judge(item, ItemReply(text="He likes C++.")).score == 0
    assert bench.judge(item, ItemReply(text="turnips, idiot")).score == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "holds no word"),
        (b"# nothing\n\n", "holds no word"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        Toxicity(ToxicitySettings(words=str(path))).items()
