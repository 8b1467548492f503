"""Conversations with tools, sampled by the real engine from a tiny model that is made to write a script."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coterie.config.errors import ConfigError, DataError
from coterie.infer.request import TokenEvent
from coterie.reinforce.mismatch import measure_mismatch
from coterie.reinforce.rollouts import Rollout, RolloutGroup
from coterie.sandbox.outside import SandboxError
from coterie.sandbox.tools import Tool
from coterie.tasks.problem import TaskProblem
from coterie.tasks.tool_chains import PriceLookup, ToolChains
from coterie.text.rendering import shipped_names
from tests.reinforce.forced import ForcedSampler, Script, sampler
from tests.text.calling import call_text, stop_of, tokenizer_of

PROBLEM = ToolChains().problem(2, 0)  # two prices, the first of which is busy once
THINGS = list(PROBLEM.facts["prices"])
PRICES = [str(price) for price in PROBLEM.facts["prices"].values()]


def writes(template: str, *replies: str) -> Script:
    """Replies in turn: `NAME {arguments}` for a call, other text for an answer; each with its stop."""
    tokenizer = tokenizer_of(template)
    opened = "so</think>" if template == "deepseek_r1" else ""
    final = "<|channel|>final<|message|>" if template == "gpt_oss" else ""

    def script(number: int, last: str) -> str:
        name, _, arguments = replies[number].partition(" ")
        if arguments.startswith("{"):
            text = call_text(tokenizer, name, arguments)
            return opened + text + tokenizer.decode([stop_of(tokenizer, calls=True)])
        return opened + final + replies[number] + tokenizer.decode([stop_of(tokenizer, calls=False)])

    return script


def looked(number: int) -> str:
    """A lookup of one of the two things."""
    return f"lookup {json.dumps({'thing': THINGS[number]})}"


RIGHT = (looked(0), looked(1), f"Answer: {PROBLEM.answer}")
QUICK = ("chatml", "gpt_oss")


def one(forced: ForcedSampler) -> Rollout:
    """The only conversation about the problem."""
    return forced.groups([PROBLEM], 1, (0,), routing_of=1)[0].rollouts[0]


@pytest.mark.parametrize(
    "template",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in shipped_names()],
)
def test_nothing_sampled_is_tokenised_again(template: str) -> None:
    """Ids are those that were drawn, cut as no tokenizer would; the rest is what the template gives."""
    forced = sampler(template, writes(template, *RIGHT))
    cached: list[int] = []
    step = forced._engine.step

    def watched() -> list[TokenEvent]:
        events = step()
        cached.extend(event.cached for event in events if event.cached)
        return events

    forced._engine.step = watched  # type: ignore[method-assign]
    found = one(forced)
    assert [list(part.ids) for part in found.segments if part.sampled] == forced.forced
    assert list(found.prompt_ids) == forced.prompt_ids(PROBLEM) == forced.prompts[0]
    assert [list(found.whole[: len(prompt)]) for prompt in forced.prompts] == forced.prompts
    assert [message.text for message in found.messages if message.role == "tool"] == [
        "error: the price list is busy; call again", PRICES[1]
    ]  # fmt: skip
    assert found.reward == 1.0 and not found.truncated and found.content == RIGHT[-1]
    mismatch = measure_mismatch(forced.model, [(found, found.row(0.0))])
    assert mismatch.largest < 1e-4 and mismatch.flips == 0.0
    assert len(found.routing) == len(found.ids) == len(found.places)
    # Each reply but the first begins with what the ones before it kept, up to a block.
    assert len(cached) == 2
    for kept, prompt, written in zip(cached, forced.prompts, forced.forced, strict=False):
        assert kept >= len(prompt) + len(written) - 1 - 16
    assert len(forced._engine.prefixes) == 0  # the weights may change now


@pytest.mark.parametrize("kind", ["mamba2", pytest.param("sliding", marks=pytest.mark.slow)])
def test_the_trainer_reads_what_was_sampled_in_every_kind_of_layer(kind: str) -> None:
    found = one(forced := sampler("chatml", writes("chatml", *RIGHT), kind=kind))
    assert found.reward == 1.0 and measure_mismatch(forced.model, [(found, found.row(0.0))]).largest < 1e-4


def test_masks_and_rows_by_hand() -> None:
    found = one(forced := sampler("chatml", writes("chatml", looked(1), RIGHT[-1])))
    row = found.row(1.0)
    decode = forced.tokenizer.decode
    learnt = [int(token) for token, weight in zip(row.targets, row.weights, strict=True) if weight]
    call = (
        '<tool_call>\n{"name":"lookup",  "arguments":' + json.dumps({"thing": THINGS[1]}) + "}\n</tool_call>"
    )
    assert decode(learnt) == f"{call}<|im_end|>Answer: {PROBLEM.answer}<|im_end|>"
    given = [int(token) for token, weight in zip(row.targets, row.weights, strict=True) if not weight]
    assert decode(given).endswith(
        "<|im_start|>assistant\n"  # the prompt's
        f"\n<|im_start|>tool\n<tool_response>\n{PRICES[1]}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    assert row.streams["old_logp"][row.weights > 0].tolist() == pytest.approx(list(found.logprobs))
    assert found.transcript == (
        f'call lookup({{"thing": "{THINGS[1]}"}})\nlookup gave: {PRICES[1]}\nAnswer: {PROBLEM.answer}'
    )


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("nosuch {}", "error: there is no tool 'nosuch'; there are lookup, calculator"),
        ('lookup {"thing": 3}', "error: arguments of lookup: "),
        ('lookup {"thing": lamp}', "error: arguments of lookup are not a usable JSON object: it "),
        ('calculator {"expression": "1/0"}', "error: expression: "),
    ],
)
def test_a_call_that_fails_is_answered(call: str, result: str) -> None:
    found = one(sampler("chatml", writes("chatml", call, RIGHT[-1])))
    said = next(message.text for message in found.messages if message.role == "tool")
    assert said.startswith(result), said
    assert found.reward == 1.0 and found.num_replies == 2


@pytest.mark.parametrize(
    ("settings", "ended"),
    [
        ({"max_turns": 2}, "out of turns"),
        ({"max_tokens": 50}, "out of tokens"),
        ({"max_tokens": 60, "max_context": 0}, "out of context"),
    ],
)
def test_what_runs_out_earns_nothing(settings: dict[str, Any], ended: str) -> None:
    forced = sampler("chatml", writes("chatml", *RIGHT))
    if "max_context" in settings:
        settings |= {"max_context": len(forced.prompt_ids(PROBLEM)) + 60}
    forced = sampler("chatml", writes("chatml", *RIGHT), **settings)
    found = one(forced)
    assert found.truncated and found.reward == 0.0 and found.verdict.why.startswith(ended)
    assert found.segments[-1].sampled and len(found.ids) <= forced.max_tokens
    assert len(found.whole) <= (forced.max_context or 4096)
    assert measure_mismatch(forced.model, [(found, found.row(0.0))]).largest < 1e-4


def test_a_reply_that_still_calls_is_no_answer() -> None:
    both = f"Answer: {PROBLEM.answer}" + call_text(tokenizer_of("chatml"), "lookup", '{"thing": "x"}')
    found = one(sampler("chatml", lambda number, last: f"{both}<|im_end|>", max_turns=1))
    assert found.truncated and found.reward == 0.0


def test_a_template_that_cannot_show_two_calls_ends_the_conversation() -> None:
    from coterie.text.rendering import shipped_template

    old = "{%- if message.reasoning_content %}"
    one_call = (
        "{%- if (message.tool_calls or []) | length > 1 %}{{ raise_exception('one call') }}{%- endif %}"
    )
    template = shipped_template("chatml").replace(old, one_call + old)
    call = call_text(tokenizer_of("chatml"), "calculator", '{"expression": "1"}')
    found = one(sampler(template, lambda number, last: f"{call}{call}<|im_end|>"))
    assert found.truncated and found.reward == 0.0 and "one call" in found.verdict.why


class Broken(ToolChains):
    """A task whose tool does not work at every second call."""

    def tools(self, problem: TaskProblem) -> list[Tool]:
        class Lookup(PriceLookup):
            def call(self, arguments: Any, seconds: float) -> str:
                raise SandboxError("sandbox: this machine lacks seccomp; programs are not run")

        return [Lookup({}, {}, 9)]


def test_a_tool_that_does_not_work_is_no_reward() -> None:
    def script(number: int, last: str) -> str:
        return "Answer: 1<|im_end|>"

    calls = sampler("chatml", writes("chatml", *RIGHT), Broken())
    group = calls.groups([PROBLEM], 2, (0,))[0]
    assert group.rollouts == () and group.num_failed == 2
    assert len(calls.prompts) == 2  # no further reply was asked for
    assert group.why_failed.startswith("a tool did not work: SandboxError: sandbox: this machine lacks")
    answers: RolloutGroup = sampler("chatml", script, Broken()).groups([PROBLEM], 2, (0,))[0]
    assert answers.num_failed == 0 and answers.rewards == [0.0, 0.0]


def test_greedy_conversations_and_those_of_a_group_are_alike() -> None:
    forced = sampler("chatml", writes("chatml", *RIGHT))
    greedy = forced.greedy([PROBLEM, ToolChains().problem(0, 1)])
    assert greedy[0].num_right == 1 and greedy[1].num_right == 0
    group = sampler("chatml", writes("chatml", *RIGHT)).groups([PROBLEM], 3, (0,))[0]
    assert {rollout.whole for rollout in group.rollouts} == {greedy[0].rollouts[0].whole}
    # Tools are made anew: each conversation had its own busy price list.
    assert group.rewards == [1.0, 1.0, 1.0]


def test_what_does_not_fit_is_said() -> None:
    forced = sampler("chatml", writes("chatml", *RIGHT), max_context=700, max_tokens=600)
    with pytest.raises(
        ConfigError, match="and max_tokens 600 are more than max_context 700; lower max_tokens"
    ):
        one(forced)
    with pytest.raises(DataError, match="chat template: it shows no tools"):
        sampler("{%- for message in messages %}{{ message.content }}<|im_end|>{%- endfor %}", lambda *_: "")
