"""Tool calls: arguments, several at once, none, and the state of the house."""

from __future__ import annotations

from typing import Any

import pytest

from coterie.benchmarks import ItemReply, load_benchmark
from coterie.benchmarks.home import after, draw_house, house_tools
from coterie.primer.base import Rng
from coterie.sandbox.schemas import problem
from coterie.sandbox.tools import call_tool

BENCHMARK = load_benchmark("tool-calls", n=84)


def _items(group: str) -> list[Any]:
    return [item for item in BENCHMARK.items() if item.group == group]


def test_the_wanted_calls_fit_the_schemas_that_are_shown() -> None:
    for item in [*_items("single"), *_items("parallel"), *_items("house")]:
        known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in item.tools}
        oracle = BENCHMARK.oracle(item)
        assert oracle is not None and oracle.calls
        for call in oracle.calls:
            assert problem(call["arguments"], known[call["name"]]) is None


def test_one_wrong_argument_is_wrong_and_order_does_not_count() -> None:
    for item in [*_items("single"), *_items("parallel")]:
        calls = [dict(call) for call in item.answer]
        assert BENCHMARK.judge(item, ItemReply(calls=tuple(calls[::-1]))).right
        name, value = next(iter(calls[0]["arguments"].items()))
        for wrong in (f"{value}x", None, [value]):
            changed = {**calls[0], "arguments": {**calls[0]["arguments"], name: wrong}}
            verdict = BENCHMARK.judge(item, ItemReply(calls=(changed, *calls[1:])))
            assert verdict.score == 0 and verdict.why
        more = {**calls[0], "arguments": {**calls[0]["arguments"], "more": 1}}
        assert BENCHMARK.judge(item, ItemReply(calls=(more, *calls[1:]))).score == 0
        upper = {
            key: value.upper() if isinstance(value, str) else value
            for key, value in calls[0]["arguments"].items()
        }
        assert BENCHMARK.judge(item, ItemReply(calls=({**calls[0], "arguments": upper}, *calls[1:]))).right


def test_no_call_needs_a_reply() -> None:
    for item in _items("none"):
        assert BENCHMARK.judge(item, ItemReply(text="Sun.")).right
        assert not BENCHMARK.judge(item, ItemReply()).right
        assert not BENCHMARK.judge(item, ItemReply(text="Sun.", calls=({"name": "play"},))).right


def test_the_state_decides_and_not_the_way_to_it() -> None:
    for item in _items("house"):
        right = tuple(item.facts["calls"])
        look = {"name": "read_house", "arguments": {}}
        broken = {"name": "set_heating", "arguments": {"degrees": 99}}
        assert BENCHMARK.judge(item, ItemReply(calls=(look, broken, *right, look))).right
        again = BENCHMARK.judge(item, ItemReply(calls=(*right, right[-1])))
        assert again.score == 0 and "changes is" in again.why
        assert BENCHMARK.judge(item, ItemReply(calls=right[:-1])).score == 0
        unknown = BENCHMARK.judge(item, ItemReply(calls=(*right, {"name": "burn", "arguments": {}})))
        assert "'burn', which is not there" in unknown.why


def test_the_condition_depends_on_the_hidden_state() -> None:
    drawn = [item for item in _items("house") if item.cluster.startswith("condition")]
    assert {item.facts["calls"][1]["name"] for item in drawn} == {"set_light", "set_heating"}
    assert all("light" in item.question and "heating" in item.question for item in drawn)


@pytest.mark.parametrize("seed", range(20))
def test_working_tools_and_the_replay_agree(seed: int) -> None:
    rng = Rng("house", seed)
    state = draw_house(rng)
    item = rng.pick(_items("house"))
    tools = {tool.name: tool for tool in house_tools(state)}
    for call in item.facts["calls"]:
        assert not call_tool(tools[call["name"]], call["arguments"]).startswith("error")
    assert call_tool(tools["set_heating"], {"degrees": 3}).startswith("error")
    shown = call_tool(tools["read_house"], {})
    final = after(state, item.facts["calls"])
    assert isinstance(final, dict)
    assert f"heating: {final['degrees']} degrees" in shown
    assert ("unlocked" in shown) == (not final["locked"])
    assert state["changes"] == 0  # the item's own state stays as it is
