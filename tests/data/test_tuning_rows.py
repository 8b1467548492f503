"""The held-out examples of a tuning run: some of a share, all of a file."""

from __future__ import annotations

import json
from pathlib import Path

from coterie.config.tune import TuneConfig
from coterie.data.heldout import LEAST_MEASURED
from coterie.data.tuning_rows import TuneData, prepare_examples
from coterie.text.tokenizer import Tokenizer


def conversations(path: Path, count: int) -> str:
    lines = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n * n}."}]}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_a_short_run_is_measured_on_some_of_its_held_out_examples(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["0 1 2 3 4 5 6 7 8 9 ? ."] * 4, vocab_size=300)
    other = conversations(tmp_path / "other.jsonl", 100)

    def prepared(steps: int, held_out: float | str) -> TuneData:
        given = {"model": "m", "data": [conversations(tmp_path / "data.jsonl", 300)], "out": "o"}
        given |= {"steps": steps, "batch_rows": 1, "row_length": 512, "eval": held_out}
        return prepare_examples(TuneConfig.from_dict(given), tokenizer, 512)

    short, long, whole = prepared(1, 0.5), prepared(1000, 0.5), prepared(1, other)
    tokens = sum(example.positions for example in short.measured)
    assert tokens <= LEAST_MEASURED == short.num_measured_tokens < 3 * tokens
    assert set(map(id, short.measured)) < set(map(id, short.held_out_examples))
    assert (
        f"{len(short.held_out_examples)} held out ({len(short.measured)} of them measured)" in short.summary()
    )
    assert long.measured == long.held_out_examples and "measured" not in long.summary()
    assert len(whole.measured) == 100 == len(whole.held_out_examples)
    assert len(short.held_out) < len(long.held_out)
