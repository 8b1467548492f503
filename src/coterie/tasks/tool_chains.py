"""Questions that take several calls of tools, some of which fail at first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from coterie.primer.base import Rng
from coterie.primer.words import THINGS
from coterie.sandbox.tools import Calculator, Tool, ToolError
from coterie.tasks.answers import whole_number
from coterie.tasks.problem import TaskFamily, TaskProblem
from coterie.text.tools import texts

# Level -> (things to look up, how many of the lookups fail once).
_SIZES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 1), (4, 2), (5, 2), (5, 3), (6, 3))
_BUSY = "the price list is busy; call again"


class PriceLookup(Tool):
    """Looks up prices; some answers come only at the second call, and calls are limited."""

    name = "lookup"
    description = "Look up the price of a thing, in coins. It may be busy; then call again."
    parameters = texts(["thing"], thing="one thing, such as lamp")

    def __init__(self, prices: Mapping[str, int], busy: Mapping[str, int], most: int) -> None:
        self._prices, self._busy, self._left = prices, Counter(busy), most

    def call(self, arguments: Mapping[str, Any], seconds: float) -> str:
        """The price. Errors: `ToolError` while it is busy, for an unknown thing, and after too many calls."""
        thing = arguments["thing"]
        if self._left <= 0:
            raise ToolError("there are no calls left; give the answer")
        self._left -= 1
        if thing not in self._prices:
            raise ToolError(f"there is no price of {thing!r:.40}")
        if self._busy[thing] > 0:
            self._busy[thing] -= 1
            raise ToolError(_BUSY)
        return str(self._prices[thing])


def _call(name: str, **arguments: str) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


class ToolChains(TaskFamily):
    """What several things cost together: look up each, then work out the sum. The answer alone decides.

    A reply has twice as many lookups as it needs.
    """

    name = "tool-chains"
    says = "sums of 1 to 6 prices that must be looked up with tools, some of which are busy at first"

    def draw(self, rng: Rng, level: int) -> TaskProblem:
        """Things, how many of each, their prices, and which lookups fail once."""
        count, failing = _SIZES[level]
        things = [one for one, _ in rng.sample(THINGS, count)]
        prices = {thing: rng.between(11, 99) for thing in things}
        amounts = [rng.between(2, 9) for _ in things]
        busy = dict.fromkeys(rng.sample(things, failing), 1)
        listed = " and ".join(f"{amount} x {thing}" for amount, thing in zip(amounts, things, strict=True))
        terms = [f"{amount} * {prices[thing]}" for amount, thing in zip(amounts, things, strict=True)]
        total = sum(amount * prices[thing] for amount, thing in zip(amounts, things, strict=True))
        facts = {"prices": prices, "busy": busy, "sum": " + ".join(terms)}
        key = f"{listed} {sorted(prices.items())} {sorted(busy)}"
        return TaskProblem(self.name, level, f"What do {listed} cost?", str(total), "", facts, key)

    def tools(self, problem: TaskProblem) -> list[Tool]:
        """A price list of this problem's own, and the calculator."""
        prices, busy = problem.facts["prices"], problem.facts["busy"]
        return [PriceLookup(prices, busy, 2 * (len(prices) + len(busy))), Calculator()]

    def turns(self, problem: TaskProblem) -> list[dict[str, Any]]:
        """Look up each thing, again where it was busy, then the calculator."""
        said: list[dict[str, Any]] = []
        for thing, price in problem.facts["prices"].items():
            for content in [f"error: {_BUSY}"] * problem.facts["busy"].get(thing, 0) + [str(price)]:
                said += [_call("lookup", thing=thing), {"role": "tool", "name": "lookup", "content": content}]
        said += [
            _call("calculator", expression=problem.facts["sum"]),
            {"role": "tool", "name": "calculator", "content": problem.answer},
        ]
        return said

    def equal(self, problem: TaskProblem, found: str) -> bool:
        """The same whole number."""
        return whole_number(found) == int(problem.answer)
