"""Claims of arithmetic: what is checked, what is right, and what is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.reasoning.sums import check_sums

RIGHT = [
    "12 + 7 = 19",
    "so 12 + 7 = 19 apples.",
    "1. 3 * (2 + 2) = 12",
    "19 = 12 + 7",
    r"$3 \times 4 = 12$",
    "2 ^ 5 = 32, which is even",
    "10 / 4 = 2.5",
    "10 / 3 ≈ 3.33",
    "1,000 + 234 = 1,234",
    "It is -3 + 5 = 2.",
    "(1 + 2) * 3 = 3 * 3 = 9",
    "0.1 + 0.2 = 0.3",
    "007 + 1 = 8",
]
WRONG = ["12 + 7 = 18", "2 * 3 = 7 km", "10 / 3 = 3", "10 / 4 = 2.6", "1,000 + 1 = 1,002", "5 - 7 = 2"]
ALONE = [
    "x + 7 = 19",
    "2x + 3 = 7",
    "x - 3 + 5 = 2",
    "3 + 4 = 2x",
    "3 + 4 = 7 + x",
    "1 + 1 = 0 (mod 2)",
    "25 mod 7 + 1 = 5",
    "3 times 4 + 1 = 13",
    "17 / 5 = 3 remainder 2",
    "17 / 5 = 3 r 2",
    "50 / 100 = 50%",
    "f(3) + 2 = 5",
    "a = 3, b = 4",
    "7 = 7",
    "1 / 0 = 3",
    "9 ** 9 ** 9 = 3",
    "3 + 4 =",
    "= 7",
    "3 ++ = 4",
]


@pytest.mark.parametrize("text", RIGHT)
def test_right_claims(text):
    found = check_sums(text)
    assert found and all(check.right for check in found), found


@pytest.mark.parametrize("text", WRONG)
def test_wrong_claims(text):
    (check,) = check_sums(text)
    assert not check.right


@pytest.mark.parametrize("text", ALONE)
def test_what_may_mean_something_else_is_left_alone(text):
    assert check_sums(text) == []


def test_a_chain_is_checked_pair_by_pair_and_its_value_is_given():
    found = check_sums("3 + 4 = 7 = 8 - 2\nand 2 * 2 = 5")
    assert [(check.text, check.right, check.value) for check in found] == [
        ("3 + 4 = 7", True, "7"),
        ("7 = 8 - 2", False, "7"),
        ("2 * 2 = 5", False, "4"),
    ]


@given(st.integers(-999, 999), st.integers(0, 999), st.integers(-3, 3))
def test_sums_of_whole_numbers(first, second, off):
    (check,) = check_sums(f"{first} + {second} = {first + second + off}")
    assert check.right == (off == 0)


@given(st.text(alphabet="0123456789+-*/()=.,^ x%\n\\times", max_size=60))
def test_it_never_raises(text):
    check_sums(text)


def test_long_and_many():
    assert len(check_sums("1 + 1 = 2\n" * 1000)) == 200
    assert check_sums("1" + " + 1" * 200 + " = 3") == []
