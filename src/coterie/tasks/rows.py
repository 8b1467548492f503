"""What a task gives besides rewards: text for pretraining and conversations for tuning."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from coterie.primer.base import Rng
from coterie.tasks.problem import Split, TaskFamily, TaskProblem

Steps = Literal["think", "text"]
INSTRUCTION = (
    "Work through the problem step by step. End with one line that begins with 'Answer:' and holds the "
    "answer alone."
)


def conversation(
    family: TaskFamily, problem: TaskProblem, worked: bool, steps: Steps = "think", instruction: bool = False
) -> dict[str, Any]:
    """A row for tuning: the problem and a right reply.

    `worked`: with its steps, as the reasoning of the reply (`think`) or as part of its text.
    """
    reply: dict[str, Any] = {"role": "assistant", "content": family.oracle(problem)}
    if worked and problem.steps:
        if steps == "think":
            reply["reasoning_content"] = problem.steps
        else:
            reply["content"] = family.worked(problem)
    system = [{"role": "system", "content": INSTRUCTION}] if instruction else []
    asked = {"role": "user", "content": problem.prompt}
    row: dict[str, Any] = {"messages": [*system, asked, *family.turns(problem), reply]}
    tools = family.tools(problem)
    return {**row, "tools": [tool.spec() for tool in tools]} if tools else row


def conversations(
    family: TaskFamily,
    levels: Sequence[int],
    count: int,
    seed: int = 0,
    *,
    split: Split = "train",
    worked_share: float | None = None,
    steps: Steps = "think",
    instruction: bool = False,
) -> Iterator[dict[str, Any]]:
    """`count` rows, the levels in turn; `worked_share` of them show steps (default: the family's share)."""
    share = family.worked_share if worked_share is None else worked_share
    rng = Rng("task rows", family.name, seed)
    for index in range(count):
        problem = family.problem(levels[index % len(levels)], index, split, seed)
        yield conversation(family, problem, rng.chance(share), steps, instruction)


def documents(family: TaskFamily, levels: Sequence[int], count: int, seed: int = 0) -> Iterator[str]:
    """`count` texts for pretraining: a few problems each, with steps and answer, one after the other."""
    rng = Rng("task text", family.name, seed)
    indices = itertools.count()
    for _ in range(count):
        drawn = [next(indices) for _ in range(rng.between(3, 6))]
        shown = [family.problem(levels[index % len(levels)], index, "train", seed) for index in drawn]
        yield "\n\n".join(f"{one.prompt}\n{family.worked(one)}" for one in shown) + "\n"
