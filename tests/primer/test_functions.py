"""Every call agrees with a second definition of its function, and no probe is in the training text."""

import ast

from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.primer import functions, qa_probes

SEEDS = st.integers(0, 10**6)
VOWELS = set("aeiouAEIOU")


def _unique(values):
    return [value for place, value in enumerate(values) if value not in values[:place]]


REFERENCE = {
    "reverse": lambda v: [*reversed(v)],
    "sort": lambda v: [x for k in range(1000) for x in v if x == k],
    "sort_down": lambda v: [x for k in range(1000, -1, -1) for x in v if x == k],
    "double_all": lambda v: [x + x for x in v],
    "add_one": lambda v: [1 + x for x in v],
    "evens": lambda v: [x for x in v if str(x)[-1] in "02468"],
    "odds": lambda v: [x for x in v if str(x)[-1] in "13579"],
    "drop_first": lambda v: [x for i, x in enumerate(v) if i > 0],
    "drop_last": lambda v: [x for i, x in enumerate(v) if i < len(v) - 1],
    "unique": _unique,
    "rotate": lambda v: [v[(i + 1) % len(v)] for i in range(len(v))],
    "twice": lambda v: [*v, *v],
    "small": lambda v: [x for x in v if x in range(5)],
    "first": lambda v: next(iter(v)),
    "last": lambda v: next(reversed(v)),
    "length": lambda v: sum(1 for _ in v),
    "total": lambda v: sum(x for x in v),
    "largest": lambda v: sorted(v)[-1],
    "smallest": lambda v: sorted(v)[0],
    "upper": lambda s: "".join(chr(ord(c) - 32) if c.islower() else c for c in s),
    "lower": lambda s: "".join(chr(ord(c) + 32) if c.isupper() else c for c in s),
    "capital": lambda s: s[:1].upper() + s[1:].lower(),
    "backwards": lambda s: "".join(reversed(s)),
    "repeat": lambda s: 2 * s,
    "no_first": lambda s: "".join(list(s)[1:]),
    "no_last": lambda s: "".join(list(s)[:-1]),
    "sort_letters": lambda s: "".join(chr(k) for k in range(128) for c in s if ord(c) == k),
    "no_vowels": lambda s: "".join(c for c in s if c not in VOWELS),
    "swap_ends": lambda s: "".join([*s[-1:], *s[1:-1], *s[:1]]),
    "first_letter": lambda s: next(iter(s)),
    "last_letter": lambda s: list(s)[-1],
    "count_letters": lambda s: sum(1 for _ in s),
    "count_vowels": lambda s: sum(s.count(c) for c in VOWELS),
}


def value_of(node: ast.expr):
    if isinstance(node, ast.Call):
        return REFERENCE[node.func.id](value_of(node.args[0]))
    return ast.literal_eval(node)


def facts(text: str) -> list[tuple[str, str]]:
    """Every `call = value`: whole lines, and each step of a worked line."""
    found = []
    for line in text.splitlines():
        if " = " not in line:
            continue
        head, colon, tail = line.partition("): ")
        if not colon:
            found.append(tuple(line.split(" = ")))
            continue
        whole = f"{head})"
        steps, _, last = tail.rpartition(", so ")
        assert last.startswith(f"{whole} = ")
        found.append(tuple(last.split(" = ")))
        position = 0
        while position < len(steps):  # a step ends where its value closes: ", " also stands inside lists
            call, _, rest = steps[position:].partition(" = ")
            end = 1
            while True:
                try:
                    ast.literal_eval(rest[:end])
                    if rest[end : end + 2] in ("", ", "):
                        break
                except (SyntaxError, ValueError):
                    pass
                end += 1
            found.append((call, rest[:end]))
            position += len(call) + 3 + end + 2
    return found


@settings(max_examples=120, deadline=None)
@given(SEEDS, SEEDS)
def test_every_call_is_right_and_none_is_a_probe(seed, index):
    found = facts(functions.generate(seed, index).text)
    assert len(found) >= 4
    for call, value in found:
        assert value_of(ast.parse(call, mode="eval").body) == ast.literal_eval(value), call
        assert not functions.reserved(call), call


def test_every_function_has_a_reference_and_is_met():
    assert set(REFERENCE) == {function.name for function in functions.FUNCTIONS}
    met = {
        call.partition("(")[0] for index in range(400) for call, _ in facts(functions.generate(0, index).text)
    }
    assert met == set(REFERENCE)


def test_a_composition_is_worked_inside_out():
    by_name = {function.name: function for function in functions.FUNCTIONS}
    calls = functions.evaluate((by_name["double_all"], by_name["reverse"]), [1, 2])
    assert calls == [
        ("double_all([1, 2])", "[2, 4]"),
        ("reverse([2, 4])", "[4, 2]"),
        ("reverse(double_all([1, 2]))", "[4, 2]"),
    ]


def test_probes_are_right_reserved_and_absent_from_training():
    probes = qa_probes("functions", 2, 200)
    assert len(dict(probes)) == 200
    for prompt, answer in probes:
        call = prompt.removesuffix(" =")
        assert value_of(ast.parse(call, mode="eval").body) == ast.literal_eval(answer)
        assert functions.reserved(call)
    text = "".join(functions.generate(2, index).text for index in range(1000))
    assert not any(prompt in text for prompt, _ in probes)
