"""Rows of every format, damaged at random: what a hostile or a broken data set holds.

`python -m tests.data.hostile_rows COUNT [SEED]` reads COUNT damaged files and prints the counts.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coterie.config.errors import CoterieError
from coterie.data.lint import lint
from coterie.data.lint_examples import holds_examples, lint_examples
from coterie.data.sources import Reading, read_sources
from coterie.text import Tokenizer

USER, REPLY = {"role": "user", "content": "q"}, {"role": "assistant", "content": "r", "thinking": "so"}
CALL = {"type": "function", "id": "c1", "function": {"name": "f", "arguments": {"a": [1, {"b": None}]}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {"a": {"type": "array"}}, "required": ["a"]},
    },
}
CALLED = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "1"},
    REPLY,
]
SHAREGPT = [
    {"from": "human", "value": "q"},
    {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
]
SEEDS: list[dict[str, Any]] = [
    {"messages": [USER, REPLY], "system": "s", "chat_template_kwargs": {"x": 1}, "id": 3},
    {"messages": CALLED, "tools": [TOOL]},
    {"messages": json.dumps(CALLED), "tools": json.dumps([TOOL])},
    {"conversations": [*SHAREGPT, {"from": "observation", "value": "2"}, {"from": "gpt", "value": "r"}]},
    {"conversation": [{"human": "q", "assistant": "r"}]},
    {"messages": {"role": ["user", "assistant"], "content": ["q", "r"]}},
    {"instruction": "q", "input": "i", "output": "r", "history": [["a", "b"]], "reasoning": "so"},
    {"prompt": "q", "completion": "r"},
    {"prompt": [USER], "completion": [{**REPLY, "train": False}, USER, REPLY]},
    {"question": "q", "answer": "r"},
    {"text": "words <|im_end|> and more"},
    {"prompt": "q", "chosen": [USER, REPLY], "rejected": [USER, {**REPLY, "content": "n"}], "margin": 1.5},
    {"chosen": "a b c", "rejected": "a b d"},
    {"messages": [USER, REPLY], "rejected_response": "n"},
    {"input": {"messages": [USER]}, "preferred_output": [REPLY], "non_preferred_output": [USER]},
    {"prompt": "q", "completion": "r", "label": True},
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "attention_mask": [1, 1, 1], "position_ids": [0, 1, 2]},
]  # fmt: skip


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


VALUES = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**299, 0.25, -0.0, 1e308, "", " ", "x", "\0", "\u2028",
    "[", "{", "[]",
    '[{"role": 1}]', "null", "NaN", "true", "<|im_end|>", "é" * 300, "a" * 5000, [], [[]], [None], [{}], {},
    {"": ""}, {"role": {}}, {"from": []}, {"role": []}, {"role": "user", "from": "gpt"}, [[1, 2], 3],
    _deep(60), _deep(90),
    [USER] * 3, [REPLY], {"messages": 3}, {"name": "f", "arguments": "["}, {"name": 3, "parameters": []},
    '{"name": "f", "arguments": ' + "[" * 5000,
]  # fmt: skip
NAMES = sorted({name for seed in SEEDS for name in seed} | {"role", "from", "value", "content", "train", "weight", "name", "function_call", "tool_calls", "tool_call_id", "functions", "rejected_messages", "kto_tag", "loss_mask", "images", "context", "query"})  # fmt: skip  # noqa: E501


def damaged(row: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A copy of a row with a few of its values, keys or items replaced, removed, added or repeated."""
    row = copy.deepcopy(row)
    for _ in range(draw.randint(1, 3)):
        places: list[tuple[Any, Any]] = []
        pending: list[Any] = [row]
        while pending:
            item = pending.pop()
            keys = list(item) if isinstance(item, dict) else list(range(len(item)))
            places += [(item, key) for key in keys]
            pending += [item[key] for key in keys if isinstance(item[key], dict | list)]
        if not places:
            break
        holder, key = draw.choice(places)
        what = draw.randrange(5)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[draw.choice(NAMES)] = holder.pop(key)
        elif what == 2 and isinstance(holder, dict):
            holder[draw.choice(NAMES)] = copy.deepcopy(draw.choice(VALUES))
        elif what == 3 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
    return row


_PIECES = [b"\0", b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\r", b"NaN", b"1e999", b"\\ud800", b"[" * 3000, b'{"a":' * 300, b"9" * 5000, b'"', b"}", b",", b'"text":1,', b"\n\n"]  # fmt: skip  # noqa: E501


def content(draw: random.Random) -> bytes:
    """The bytes of a small JSONL file of damaged rows, sometimes damaged as text too."""
    seed = draw.choice(SEEDS)
    rows = [damaged(seed, draw) for _ in range(draw.randint(1, 3))]
    raw = "\n".join(json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in rows).encode(
        "utf-8", "surrogatepass"
    )
    if draw.random() < 0.4:
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(raw) + 1)
            cut = at + draw.choice([0, 0, 1, 5, 100_000])
            raw = raw[:at] + draw.choice([b"", *_PIECES]) + raw[cut:]
    if draw.random() < 0.03:
        raw = raw.decode("utf-8", "replace").encode(draw.choice(["utf-16", "utf-16-le", "utf-32"]))
    return raw


def said_of(path: Path, tokenizer: Tokenizer, counts: Counter[str]) -> Iterator[str]:
    """Every problem that any reader of rows names in a file; anything but a named problem is raised.

    `counts` gets the examples that could be used, and the rows with a problem.
    """
    source = str(path)
    for model in (None, tokenizer):
        try:
            holds_examples(source)
            report = lint_examples([source], model, 128, show=1)
            json.dumps(report.to_dict())
            report.to_text()
            counts.update(usable=report.examples, problems=len(report.problems))
            yield from map(str, (*report.problems, *report.warnings))
        except CoterieError as error:
            yield str(error)
        yield from map(str, lint([source], Reading(tokenizer=model)).problems)
        try:
            for _ in read_sources([source], Reading(tokenizer=model)):
                pass
        except CoterieError as error:
            yield str(error)


def read_many(count: int, seed: int, folder: Path) -> Counter[str]:
    """Read `count` damaged files, and count what was said of them."""
    draw = random.Random(seed)
    tokenizer = Tokenizer.train(["user assistant system q r words and more"] * 5, 320)
    counts: Counter[str] = Counter()
    for number in range(count):
        suffix = draw.choice([".jsonl"] * 8 + [".json"])
        path = folder / f"rows{suffix}"
        path.write_bytes(content(draw))
        try:
            lines = list(said_of(path, tokenizer, counts))
        except BaseException:
            sys.stderr.write(f"seed {seed}, file {number}: {path.read_bytes()[:2000]!r}\n")
            raise
        for line in lines:
            assert "\n" not in line and "\r" not in line and str(path) in line, (number, line)
        counts.update(files=1, lines=len(lines))
    return counts


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        print(
            dict(read_many(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0, Path(directory)))
        )
