"""Token rows learn what their labels say; every mask that says something else is refused."""

# ruff: noqa: E501  # tables, one case a line

import pytest

from coterie.config.errors import DataError
from coterie.data.fields import MASKS, Fields
from coterie.data.records import Origin
from coterie.data.token_rows import read_tokens

IDS = [1, 300, 301, 302, 2]
HALF = [-100, -100, -100, 302, 2]


def read(**fields):
    row = Fields({"input_ids": IDS, **fields})
    example = read_tokens(row, Origin("f", 1))
    assert list(row.left()) == []
    return list(example.ids), list(example.labels)


READ = [
    ({}, IDS, IDS),
    ({"labels": HALF}, IDS, HALF),
    ({"labels": HALF, "completion_mask": [0, 0, 0, 1, 1]}, IDS, HALF),
    ({"labels": HALF, "prompt_mask": [1, 1, 1, 0, 0]}, IDS, HALF),
    ({"loss_mask": [1, 1, 1, 1, 1], "token_type_ids": [0] * 5, "position_ids": [0, 1, 2, 3, 4]}, IDS, IDS),
    ({"attention_mask": [1, 1, 1, 0, 0]}, IDS[:3], IDS[:3]),
    ({"attention_mask": [0, 0, 1, 1, 1], "labels": HALF, "position_ids": [0, 0, 0, 1, 2]}, IDS[2:], HALF[2:]),
    ({"attention_mask": [True, True, True, False, False], "labels": [-100, 300, 301, 0, 0]}, IDS[:3], [-100, 300, 301]),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "ids", "labels"), READ)
def test_what_is_read(fields, ids, labels):
    assert read(**fields) == (ids, labels)


REFUSED = [
    ({"labels": [*IDS[1:], -100]}, "shifted by one"),
    ({"labels": [-100, 301, -100, -100, -100]}, "shifted by one"),
    ({"labels": [-100, -100, 777, 778, 779]}, "other tokens than input_ids"),
    ({"labels": IDS[1:]}, "5 input_ids and 4 labels"),
    ({"labels": "abc"}, "not a list of whole numbers"),
    ({"attention_mask": [1, 0, 1, 1, 1]}, "gaps"),
    ({"attention_mask": [0] * 5}, "every token"),
    ({"attention_mask": [1, 1]}, "2 values of attention_mask"),
    ({"attention_mask": [1, 1, 1, 1, 2]}, "not a list of 0 and 1"),
    ({"attention_mask": 3}, "not a list of 0 and 1"),
    ({"position_ids": [0, 1, 2, 0, 1]}, "do not count up from 0"),
    ({"position_ids": [0, 1]}, "2 position_ids"),
    ({"token_type_ids": [0, 0, 0, 1, 1]}, "kinds of tokens"),
    *(({name: [0, 0, 0, 1, 1]}, f"{name} and no labels") for name in MASKS if name != "prompt_mask"),
    *(({name: [0, 1, 0, 1, 1], "labels": HALF}, f"{name} that says something else") for name in MASKS),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_contradicts_the_labels_is_refused(fields, message):
    with pytest.raises(DataError, match=message):
        read(**fields)
