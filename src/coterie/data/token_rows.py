"""Rows of token ids: what they learn is what their labels say, and whatever contradicts that is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coterie.config.errors import DataError
from coterie.data.fields import MASKS, Fields
from coterie.data.formats import PretokenisedExample
from coterie.data.records import Origin

UNLEARNT = -100


def read_tokens(row: Fields, origin: Origin) -> PretokenisedExample:
    """`input_ids` with `labels` (-100 is not learnt); positions without attention are padding and dropped.

    Errors: `DataError` for labels that are other tokens than the ids, for a mask that says something else
    than the labels, and for positions or segments of several examples in one row.
    """
    ids = _numbers(row, "input_ids")
    given = _numbers(row, "labels") if "labels" in row else None
    labels = ids if given is None else given
    if len(ids) != len(labels):
        raise DataError(f"has {len(ids)} input_ids and {len(labels)} labels")
    kept = _attended(row, len(ids))
    if any(labels[at] not in (UNLEARNT, ids[at]) for at in kept):
        shifted = all(label in (UNLEARNT, after) for label, after in zip(labels, ids[1:], strict=False))
        raise DataError(
            "has labels that are shifted by one; write the id of each position as its label"
            if shifted
            else "has labels that are other tokens than input_ids; a label is the id of its position, or -100"
        )
    _check_masks(row, labels, given is not None, kept)
    _check_positions(row, len(ids), kept)
    return PretokenisedExample(tuple(ids[at] for at in kept), tuple(labels[at] for at in kept), origin)


def _numbers(row: Fields, name: str) -> list[int]:
    numbers = row.take(name)
    if not isinstance(numbers, list | tuple) or not all(type(number) is int for number in numbers):
        raise DataError(f"field '{name}' is not a list of whole numbers")
    return list(numbers)


def _bits(row: Fields, name: str, size: int) -> list[bool]:
    """A mask as booleans. Errors: `DataError` for another length, or values other than 0 and 1."""
    values: Any = row.take(name)
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, bool | int | float) and value in (0, 1) for value in values
    ):
        raise DataError(f"field '{name}' is not a list of 0 and 1")
    if len(values) != size:
        raise DataError(f"has {size} input_ids and {len(values)} values of {name}")
    return [bool(value) for value in values]


def _attended(row: Fields, size: int) -> range:
    """The positions that are no padding. Errors: `DataError` for gaps between them."""
    if "attention_mask" not in row:
        return range(size)
    mask = _bits(row, "attention_mask", size)
    if not any(mask):
        raise DataError("has an attention_mask that leaves out every token")
    first, last = mask.index(True), size - mask[::-1].index(True)
    if not all(mask[first:last]):
        raise DataError("has an attention_mask with gaps; only padding at the ends can be left out")
    return range(first, last)


def _check_masks(row: Fields, labels: Sequence[int], labelled: bool, kept: range) -> None:
    """Masks of what is learnt must say the same as the labels."""
    for name in MASKS:
        if name not in row:
            continue
        mask = _bits(row, name, len(labels))
        learnt = [not bit for bit in mask] if name == "prompt_mask" else mask
        if not all(learnt) and not labelled:
            raise DataError(f"has a {name} and no labels; write what it says as labels (-100: not learnt)")
        if any(learnt[at] != (labels[at] != UNLEARNT) for at in kept):
            raise DataError(f"has a {name} that says something else than its labels; keep one of them")


def _check_positions(row: Fields, size: int, kept: range) -> None:
    """Positions that count on, and no second segment: one example is one sequence."""
    if "position_ids" in row:
        positions = _numbers(row, "position_ids")
        if len(positions) != size:
            raise DataError(f"has {size} input_ids and {len(positions)} position_ids")
        shown = [positions[at] for at in kept]
        if shown not in (list(range(len(kept))), list(kept)):
            raise DataError(
                "has position_ids that do not count up from 0; several packed examples need a row each"
            )
    if "token_type_ids" in row and any(_bits(row, "token_type_ids", size)):
        raise DataError("has token_type_ids other than 0; models here have no kinds of tokens")
    row.take("special_tokens_mask")
