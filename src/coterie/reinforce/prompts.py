"""What a student replies to: the problems of a task, or what tuning examples ask."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from coterie.config.errors import ConfigError
from coterie.data.order import Order
from coterie.data.tokenised import TokenExample
from coterie.tasks.problem import TaskFamily, TaskProblem

Prompt = tuple[int, ...]


@dataclass(frozen=True)
class Prompts:
    """Prompts as token ids. `at(n)`: prompt number n of the run. `digest`: of those that make them."""

    at: Callable[[int], Prompt]
    held_out: list[Prompt]
    about: str
    digest: str


def task_prompts(
    family: TaskFamily,
    levels: Sequence[int],
    seed: int,
    problems: Sequence[TaskProblem],
    ids: Callable[[TaskProblem], list[int]],
) -> Prompts:
    """New training problems without end, the levels in turn. `problems`: held out."""

    def at(number: int) -> Prompt:
        return tuple(ids(family.problem(levels[number % len(levels)], number, "train", seed)))

    about = f"task {family.name} at levels {', '.join(map(str, levels))}"
    return Prompts(
        at, [tuple(ids(problem)) for problem in problems], about, f"{family.name} {family.version}"
    )


def example_prompts(
    train: Sequence[TokenExample], held_out: Sequence[TokenExample], seed: int, count: int, longest: int
) -> Prompts:
    """The prompts of examples, each up to the last part that is learnt; in epochs of random order.

    At most `count` are held out. Prompts of more than `longest` tokens are left out.
    Errors: `ConfigError` where no prompt is left on a side.
    """
    kept = _different(held_out, longest)[:count]
    barred = set(kept)
    found = [prompt for prompt in _different(train, longest) if prompt not in barred]
    for what, prompts in (("train on", found), ("measure on", kept)):
        if not prompts:
            raise ConfigError(
                f"examples: no prompt of at most {longest} tokens is left to {what}; give conversations or "
                "pairs with other prompts, a smaller max_tokens, or another 'eval'"
            )
    order = Order(len(found), seed)
    digest = hashlib.sha256(repr((found, kept)).encode()).hexdigest()
    about = f"{len(found):,} prompts of examples, {len(kept):,} held out"
    return Prompts(lambda number: found[order[number]], kept, about, digest)


def _different(examples: Iterable[TokenExample], longest: int) -> list[Prompt]:
    prompts = (prompt_of(example) for example in examples)
    return list(dict.fromkeys(prompt for prompt in prompts if 0 < len(prompt) <= longest))


def prompt_of(example: TokenExample) -> Prompt:
    """The tokens before the last run of learnt ones; none for plain text, which is learnt from its start."""
    ids, learnt = example.sequences[0].ids, example.sequences[0].learnt
    end = len(learnt)
    while end and not learnt[end - 1]:
        end -= 1
    while end and learnt[end - 1]:
        end -= 1
    return ids[:end] if end > 1 else ()
