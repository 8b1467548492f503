"""Prompts of tasks and of examples: what is asked, what is held out, what is refused."""

from __future__ import annotations

import pytest

from coterie.config import ConfigError
from coterie.data.records import Origin
from coterie.data.tokenised import TokenExample, TokenSequence
from coterie.reinforce.prompts import example_prompts, prompt_of, task_prompts
from coterie.tasks import load_task


def example(ids: list[int], learnt: str) -> TokenExample:
    """`learnt`: a 1 for each token that is."""
    marks = tuple(mark == "1" for mark in learnt)
    return TokenExample((TokenSequence(tuple(ids), marks),), Origin("file", 1))


def test_the_prompt_ends_where_the_last_reply_begins() -> None:
    assert prompt_of(example([5, 6, 7, 8], "0011")) == (5, 6)
    assert prompt_of(example([5, 6, 7, 8, 9, 10], "011010")) == (5, 6, 7, 8)
    assert prompt_of(example([5, 6, 7], "000")) == ()
    assert prompt_of(example([5, 6, 7], "111")) == prompt_of(example([5, 6, 7], "011")) == ()


def test_each_prompt_is_asked_once_in_an_epoch_and_never_a_held_out_one() -> None:
    train = [example([1, 2, number, 9], "0001") for number in range(6)]
    train.append(example([1, 2, 0, 8], "0001"))  # the prompt of the first again, with another reply
    held_out = [example([1, 2, 5, 7], "0001"), example([4, 4, 4, 4, 4, 4, 7], "0000001")]
    prompts = example_prompts(train, held_out, seed=3, count=5, longest=5)
    assert prompts.held_out == [(1, 2, 5)]
    epochs = [[prompts.at(number) for number in range(first, first + 5)] for first in (0, 5)]
    assert [sorted(epoch) for epoch in epochs] == [[(1, 2, number) for number in range(5)]] * 2
    assert epochs[0] != epochs[1]
    other = example_prompts(train[:4], held_out, seed=3, count=5, longest=5)
    assert other.digest != prompts.digest and "5 prompts" in prompts.about


@pytest.mark.parametrize(("train", "held_out"), [("0111", "0011"), ("0011", "1111")])
def test_examples_without_prompts_are_refused(train: str, held_out: str) -> None:
    with pytest.raises(ConfigError, match="no prompt of at most 9 tokens is left to"):
        example_prompts([example([1, 2, 3, 4], train)], [example([2, 2, 3, 4], held_out)], 0, 5, 9)


def test_a_task_gives_new_problems_of_the_levels_in_turn() -> None:
    family = load_task("parity")
    held_out = list(family.problems([1, 2], 4, "test", 0))
    prompts = task_prompts(
        family, [1, 2], 0, held_out, lambda problem: [problem.level, *problem.prompt.encode()]
    )
    asked = [prompts.at(number) for number in range(8)]
    assert [prompt[0] for prompt in asked] == [1, 2] * 4 and asked == [prompts.at(n) for n in range(8)]
    assert not set(asked) & set(prompts.held_out) and len(prompts.held_out) == 4
