"""The reader of JSON text: what it accepts equals `json.loads`, what it refuses has one reason, soon."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.config.files import read_json
from coterie.config.json_text import JsonError, JsonLimits, encodable, parse_json, parse_json_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, dict | list) + max(map(depth, inner), default=0)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_what_json_dumps_writes_is_read_as_json_loads_reads_it(value: Any, ascii: bool, indent: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    assert parse_json(text) == json.loads(text) == parse_json(text.encode())


@given(VALUES, st.integers(0, 6))
def test_the_depth_limit_counts_levels_outside_strings(value: Any, limit: int) -> None:
    text = json.dumps([value, '[{"\\', "]}", '\\"[[[[[[[[[[[['])
    if depth([value]) <= limit:
        assert parse_json(text, JsonLimits(depth=limit)) == json.loads(text)
    else:
        with pytest.raises(JsonError, match=f"deeper than {limit}"):
            parse_json(text, JsonLimits(depth=limit))


REFUSED = {
    "key twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', 'the key "c" twice'),
    "key twice in other spelling": ('{"a": 1, "\\u0061": 2}', 'the key "a" twice'),
    "not JSON": ('{"a": 1,}', "not valid JSON"),
    "nothing": ("", "not valid JSON"),
    "control character": ('"a\nb"', "not valid JSON"),
    "NaN": ("[NaN]", "holds NaN"),
    "infinite": ("[-Infinity]", "holds -Infinity"),
    "too large": ("[1e999]", "too large"),
    "too large in full": ("1" * 400 + ".5", "too large"),
    "long integer": ("-" + "9" * 301, "an integer of 301 digits"),
    "endless integer": ("[" + "9" * 10_000 + "]", "an integer of 10000 digits"),
    "deep lists": ("[" * 100_000, "deeper than 100"),
    "deep objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, "deeper than 100"),
    "lone surrogate": (r'{"a": ["\ud800"]}', "half of a surrogate pair"),
    "lone surrogate in a key": (r'{"\uDC00a": 1}', "half of a surrogate pair"),
    "surrogate not escaped": ('"\ud800"', "not UTF-8"),
    "not UTF-8": (b'"\xff"', "not UTF-8 text \\(byte 1\\)"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_reason(name: str) -> None:
    text, reason = REFUSED[name]
    with pytest.raises(JsonError, match=reason) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 300


def test_limits_of_size_and_items() -> None:
    with pytest.raises(JsonError, match="more than the 5 bytes"):
        parse_json("[1,2,3]", JsonLimits(size=5))
    with pytest.raises(JsonError, match="3 entries"):
        parse_json('{"a": [1,2,3]}', JsonLimits(items=2))
    with pytest.raises(JsonError, match="holds a list"):
        parse_json_object("[]")


def test_what_a_place_may_allow() -> None:
    assert parse_json('{"a": 1, "a": 2}', JsonLimits(repeated_keys=True)) == {"a": 2}
    assert parse_json("[1e999, -Infinity]", JsonLimits(not_finite=True)) == [float("inf"), -float("inf")]
    half = parse_json(r'["\ud800"]', JsonLimits(half_surrogates=True))
    assert half == ["\ud800"] and not encodable(half[0])
    assert parse_json('"\ud800"', JsonLimits(half_surrogates=True)) == "\ud800"
    assert parse_json(r'"\ud83d\ude00"') == "\U0001f600"
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]
    assert parse_json("[" * 100 + "]" * 100) != 1


def test_a_repeated_key_among_many_is_found_in_linear_time() -> None:
    """A body of 209 KB held a server for 13 s while the search was quadratic."""
    body = "{" + ",".join(f'"k{i}":0' for i in range(20_000)) + ',"k19999":0}'
    started = time.process_time()
    with pytest.raises(JsonError, match="k19999"):
        parse_json(body)
    assert time.process_time() - started < 1.0  # some 0.03 s; quadratic: 10 s


def test_a_file_may_hold_the_length_that_means_no_limit(tmp_path: Path) -> None:
    """Transformers writes `model_max_length` as int(1e30) where a tokenizer has no limit."""
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"model_max_length": int(1e30)}))
    assert read_json(path) == {"model_max_length": int(1e30)}
