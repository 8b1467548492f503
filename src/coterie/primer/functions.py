"""List and string functions: descriptions, calls with their values, and nested calls evaluated inside out.

One surface form everywhere: `reverse([1, 2, 3]) = [3, 2, 1]`; a composition is a chain of such lines.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coterie.primer.base import PrimerDocument, Rng, held_out
from coterie.primer.words import WORDS


@dataclass(frozen=True)
class Function:
    """A function of a list of whole numbers or of a string. `kind`, `returns`: `list`, `str` or `int`."""

    name: str
    kind: str
    returns: str
    says: tuple[str, ...]
    apply: Callable[[Any], Any]


def _f(name: str, kind: str, returns: str, apply: Callable[[Any], Any], *says: str) -> Function:
    return Function(name, kind, returns, says, apply)


FUNCTIONS: tuple[Function, ...] = (
    _f("reverse", "list", "list", lambda v: v[::-1], "turns the list around", "puts the last item first"),
    _f(
        "sort",
        "list",
        "list",
        sorted,
        "puts the numbers in order, smallest first",
        "orders the numbers upwards",
    ),
    _f(
        "sort_down",
        "list",
        "list",
        lambda v: sorted(v, reverse=True),
        "puts the numbers in order, largest first",
    ),
    _f(
        "double_all",
        "list",
        "list",
        lambda v: [2 * x for x in v],
        "multiplies every number by two",
        "doubles each item",
    ),
    _f(
        "add_one",
        "list",
        "list",
        lambda v: [x + 1 for x in v],
        "adds one to every number",
        "makes each item one larger",
    ),
    _f("evens", "list", "list", lambda v: [x for x in v if x % 2 == 0], "keeps only the even numbers"),
    _f("odds", "list", "list", lambda v: [x for x in v if x % 2], "keeps only the odd numbers"),
    _f(
        "drop_first",
        "list",
        "list",
        lambda v: v[1:],
        "leaves out the first item",
        "removes the item at the front",
    ),
    _f(
        "drop_last",
        "list",
        "list",
        lambda v: v[:-1],
        "leaves out the last item",
        "removes the item at the end",
    ),
    _f(
        "unique",
        "list",
        "list",
        lambda v: list(dict.fromkeys(v)),
        "removes repeated numbers and keeps the order",
    ),
    _f("rotate", "list", "list", lambda v: v[1:] + v[:1], "moves the first item to the end"),
    _f("twice", "list", "list", lambda v: v + v, "writes the list two times in a row"),
    _f("small", "list", "list", lambda v: [x for x in v if x < 5], "keeps only the numbers below five"),
    _f("first", "list", "int", lambda v: v[0], "gives the first item", "returns the item at the front"),
    _f("last", "list", "int", lambda v: v[-1], "gives the last item", "returns the item at the end"),
    _f("length", "list", "int", len, "counts the items", "says how many items there are"),
    _f("total", "list", "int", sum, "adds all the numbers", "gives the sum of the list"),
    _f("largest", "list", "int", max, "finds the largest number"),
    _f("smallest", "list", "int", min, "finds the smallest number"),
    _f("upper", "str", "str", str.upper, "writes the word in capital letters"),
    _f("lower", "str", "str", str.lower, "writes the word in small letters"),
    _f("capital", "str", "str", str.capitalize, "makes the first letter a capital and the others small"),
    _f("backwards", "str", "str", lambda s: s[::-1], "spells the word backwards", "turns the letters around"),
    _f("repeat", "str", "str", lambda s: s + s, "writes the word two times without a space"),
    _f("no_first", "str", "str", lambda s: s[1:], "removes the first letter"),
    _f("no_last", "str", "str", lambda s: s[:-1], "removes the last letter"),
    _f(
        "sort_letters",
        "str",
        "str",
        lambda s: "".join(sorted(s)),
        "puts the letters in order of the alphabet",
    ),
    _f(
        "no_vowels",
        "str",
        "str",
        lambda s: "".join(c for c in s if c not in "aeiouAEIOU"),
        "removes a, e, i, o and u",
    ),
    _f(
        "swap_ends", "str", "str", lambda s: s[-1] + s[1:-1] + s[0], "exchanges the first and the last letter"
    ),
    _f("first_letter", "str", "str", lambda s: s[0], "gives the first letter", "returns how the word begins"),
    _f("last_letter", "str", "str", lambda s: s[-1], "gives the last letter", "returns how the word ends"),
    _f("count_letters", "str", "int", len, "counts the letters", "says how long the word is"),
    _f("count_vowels", "str", "int", lambda s: sum(c in "aeiouAEIOU" for c in s), "counts a, e, i, o and u"),
)
_CHAINABLE = {
    kind: [f for f in FUNCTIONS if f.kind == kind and f.returns == kind] for kind in ("list", "str")
}
_BY_KIND = {kind: [f for f in FUNCTIONS if f.kind == kind] for kind in ("list", "str")}
_NAMES = {"list": "list", "str": "string", "int": "whole number"}
_WITNESS: dict[str, Any] = {"list": [4, 7, 2, 9, 1, 6], "str": "garden"}
# These are never given fewer than two items: a filter may have left nothing to take the first of.
NEEDS_ITEMS = {"first", "last", "largest", "smallest", "first_letter", "last_letter", "swap_ends"}


def show(value: Any) -> str:
    """A value as it is written: `[1, 2]`, `"cat"`, `5`."""
    return json.dumps(value)


def reserved(call: str) -> bool:
    """Whether a call is kept for probes.

    Only arguments of at least three numbers or four letters can be. Shorter ones are too few, and they are
    too often steps of longer problems.
    """
    argument = call.rpartition("(")[2].rstrip(")")
    large = len(argument) >= 6 if argument.startswith('"') else argument.count(",") >= 2
    return large and held_out(f"call {call}")


def evaluate(chain: tuple[Function, ...], value: Any) -> list[tuple[str, str]]:
    """The calls `(call, value)` of a composition from the inside out; the last is the whole composition."""
    calls, whole = [], show(value)
    for function in chain:
        call = f"{function.name}({show(value)})"
        value = function.apply(value)
        calls.append((call, show(value)))
        whole = f"{function.name}({whole})"
    return [*calls, (whole, show(value))] if len(chain) > 1 else calls


def _value(rng: Rng, kind: str) -> Any:
    if kind == "str":
        word = rng.pick(WORDS)
        return word.capitalize() if rng.chance(0.15) else word
    most = rng.pick((9, 9, 20))
    return [rng.between(0, most) for _ in range(rng.between(2, 6))]


def _accepts(chain: tuple[Function, ...], value: Any) -> bool:
    """Whether no function of the chain is given less than it needs."""
    for function in chain:
        if function.name in NEEDS_ITEMS and len(value) < 2:
            return False
        value = function.apply(value)
    return True


def _draw(rng: Rng, chain: tuple[Function, ...]) -> list[tuple[str, str]]:
    """The calls of `chain` on a random value that every function accepts."""
    while True:
        value = _value(rng, chain[0].kind)
        if _accepts(chain, value):
            return evaluate(chain, value)


def trained(rng: Rng, chain: tuple[Function, ...]) -> list[tuple[str, str]]:
    """The calls of `chain` on a random value, none of them reserved for probes."""
    while True:
        calls = _draw(rng, chain)
        if not any(reserved(call) for call, _ in calls):
            return calls


def _line(rng: Rng, chain: tuple[Function, ...], worked: bool) -> str:
    *steps, (call, value) = trained(rng, chain)
    if not steps or not worked:
        return f"{call} = {value}"
    return f"{call}: {', '.join(f'{step} = {result}' for step, result in steps)}, so {call} = {value}"


def _chain(rng: Rng, depth: int) -> tuple[Function, ...]:
    """A composition that accepts some value; `last(odds(double_all(..)))`, for example, accepts none."""
    while True:
        kind = rng.pick(("list", "list", "str"))
        chain = (*(rng.pick(_CHAINABLE[kind]) for _ in range(depth - 1)), rng.pick(_BY_KIND[kind]))
        if _accepts(chain, _WITNESS[kind]):
            return chain


def _described(rng: Rng, function: Function) -> str:
    says = rng.pick(function.says)
    opening = rng.pick(
        (
            f"{function.name} {says}.",
            f"The function {function.name} takes a {_NAMES[function.kind]} and {says}.",
            f"{function.name}: {_NAMES[function.kind]} to {_NAMES[function.returns]}. It {says}.",
            f"What does {function.name} do? It {says}.",
        )
    )
    return "\n".join([opening, *(_line(rng, (function,), False) for _ in range(rng.between(3, 6)))])


def generate(seed: int, index: int) -> PrimerDocument:
    """Document `index`: described functions with examples, a sheet of calls, or compositions in steps."""
    rng = Rng("functions", seed, index)
    form = rng.pick(("described", "described", "calls", "composed", "both"))
    if form == "described":
        functions = rng.sample(FUNCTIONS, rng.between(2, 4))
        text = "\n\n".join(_described(rng, function) for function in functions)
    elif form == "calls":
        functions = rng.sample(FUNCTIONS, 3)
        text = "\n".join(_line(rng, (rng.pick(functions),), False) for _ in range(rng.between(10, 18)))
    elif form == "composed":
        depth = rng.pick((2, 2, 3))
        text = "\n".join(_line(rng, _chain(rng, depth), rng.chance(0.8)) for _ in range(rng.between(5, 9)))
    else:
        chain = _chain(rng, 2)
        parts = "\n".join(_described(rng, function) for function in dict.fromkeys(chain))
        text = "\n".join([parts, *(_line(rng, chain, True) for _ in range(3))])
    return PrimerDocument(text + "\n", "functions", f"functions/{index}")


def probes(seed: int, count: int) -> list[tuple[str, str]]:
    """`count` different reserved calls, one in four a composition, as (`sort([3, 1, 2]) =`, `[1, 2, 3]`)."""
    rng = Rng("functions probes", seed)
    found: dict[str, str] = {}
    while len(found) < count:
        call, value = _draw(rng, _chain(rng, 2 if rng.chance(0.25) else 1))[-1]
        if reserved(call):
            found[f"{call} ="] = value
    return list(found.items())
