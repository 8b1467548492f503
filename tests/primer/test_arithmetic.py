"""Every line of every sheet is right, recomputed here from its text, and no probe is ever trained on."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.primer import arithmetic, dialogues, qa_probes

SEEDS = st.integers(0, 10**6)


def value_of(expression: str) -> str:
    """An independent reading of an expression, from its text alone."""
    verb, *rest = expression.split()
    if verb.isalpha():
        numbers = [int(word) for word in rest]
        if verb == "compare":
            return {-1: "<", 0: "=", 1: ">"}[(numbers[0] > numbers[1]) - (numbers[0] < numbers[1])]
        results = {"sort": sorted(numbers), "reverse": [*reversed(numbers)], "copy": numbers}
        results |= {"min": sorted(numbers)[:1], "max": sorted(numbers)[-1:]}
        return " ".join(map(str, results[verb]))
    words = expression.split()
    total = int(words[0])
    for sign, word in zip(words[1::2], words[2::2], strict=True):
        number = int(word)
        if sign == "div":
            total = (total - total % number) // number
        elif sign == "mod":
            while total >= number:
                total -= number
        elif sign == "*":
            total = sum([total] * number)
        else:
            total += number if sign == "+" else -number
    return str(total)


def facts(text: str) -> list[tuple[str, str]]:
    """Every `expression = answer` in a sheet, steps included."""
    found = []
    for line in text.splitlines():
        head, colon, tail = line.partition(": ")
        parts = tail.split(", ") if colon else [head]
        if colon:
            assert parts[-1].startswith(f"so {head} = ")
            parts[-1] = parts[-1].removeprefix("so ")
        for part in parts:
            expression, _, answer = part.partition(" = ")
            found.append((expression, answer))
    return found


@settings(max_examples=150, deadline=None)
@given(SEEDS, SEEDS)
def test_every_line_is_right_and_none_is_a_probe(seed, index):
    found = facts(arithmetic.generate(seed, index).text)
    assert len(found) >= 8
    for expression, answer in found:
        assert value_of(expression) == answer, expression
        assert not arithmetic.reserved(expression), expression


def test_worked_by_hand():
    assert arithmetic.add(47, 85).worked() == "47 + 85: 7 + 5 = 12, 1 + 4 + 8 = 13, so 47 + 85 = 132"
    assert arithmetic.subtract(132, 85).worked() == (
        "132 - 85: 12 - 5 = 7, 13 - 8 - 1 = 4, 1 - 0 - 1 = 0, so 132 - 85 = 47"
    )
    assert arithmetic.multiply(23, 45).worked() == (
        "23 * 45: 23 * 5 = 115, 23 * 40 = 920, 115 + 920 = 1035, so 23 * 45 = 1035"
    )
    assert (
        arithmetic.remainder(97, 7).worked()
        == "97 mod 7: 97 div 7 = 13, 7 * 13 = 91, 97 - 91 = 6, so 97 mod 7 = 6"
    )
    assert arithmetic.arrange("sort", [5, 2, 9]).worked() == (
        "sort 5 2 9: min 5 2 9 = 2, min 5 9 = 5, so sort 5 2 9 = 2 5 9"
    )
    assert (
        arithmetic.compare(482, 479).worked()
        == "compare 482 479: compare 4 4 = =, compare 8 7 = >, so compare 482 479 = >"
    )
    assert (
        arithmetic.chain([3, 14, 6], "+-").worked()
        == "3 + 14 - 6: 3 + 14 = 17, 17 - 6 = 11, so 3 + 14 - 6 = 11"
    )


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 9999))
def test_steps_of_columns_are_right(first, second):
    for problem in (
        arithmetic.add(first, second),
        arithmetic.subtract(first, second),
        arithmetic.multiply(first, second),
    ):
        for expression, answer in (*problem.steps, problem[:2]):
            sign = expression.split()[1]
            if sign == "*":
                a, b = map(int, expression.split(" * "))
                assert a * b == int(answer)
            else:
                assert value_of(expression) == answer


def test_atoms_are_always_trained():
    for a in range(20):
        for b in range(10):
            for sign in "+-*":
                assert not arithmetic.reserved(f"{a} {sign} {b}")
            assert not any(arithmetic.reserved(f"{c} + {a % 10} + {b}") for c in range(2))


def test_probes_are_right_reserved_and_absent_from_training():
    probes = qa_probes("arithmetic", 4, 300)
    assert len({prompt for prompt, _ in probes}) == 300
    for prompt, answer in probes:
        expression = prompt.removesuffix(" =")
        assert value_of(expression) == answer
        assert arithmetic.reserved(expression)
    prompts = {prompt.removesuffix(" =") for prompt, _ in probes}
    trained = {
        expression for index in range(1500) for expression, _ in facts(arithmetic.generate(4, index).text)
    }
    assert not prompts & trained
    talk = "\n".join(dialogues.generate(4, index).text for index in range(1500))
    assert not prompts & set(re.findall(r"\d+ [-+*] \d+", talk))
