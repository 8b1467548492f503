"""Which sampled replies are learnt: right, whole, different, few of each problem, levels in balance."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from coterie.reinforce.rollouts import Sampler
from coterie.reinforce.survey import Surveyed, SurveyedReply
from coterie.results.reject import AcceptedLevel, AcceptedReplies
from coterie.tasks.problem import TaskProblem
from coterie.tasks.rows import INSTRUCTION
from coterie.text.chat import conversation_ids
from coterie.text.messages import Message

Shown = Callable[[TaskProblem, SurveyedReply], bool]


@dataclass(frozen=True)
class Accepted:
    """A reply that is learnt. `number`: among those to its problem; `turn`: among the kept ones."""

    of: Surveyed
    reply: SurveyedReply
    number: int
    turn: int


def accept(
    found: Sequence[Surveyed], per_problem: int, level_spread: float | None, shown: Shown
) -> tuple[list[Accepted], AcceptedReplies]:
    """The replies to learn, problem by problem, and the account of the others.

    Of a problem the first `per_problem` different right replies that ended by themselves and that `shown`
    accepts. A level gives at most `level_spread` times the median number of rows of all levels (None: all of
    them); its problems with the fewest right replies, and the first reply of each, come first.
    """
    counts: Counter[str] = Counter()
    kept: list[Accepted] = []
    for one in found:
        kept += _of_problem(one, per_problem, shown, counts)
    balanced = _balanced(kept, level_spread)
    counts["beyond_level"] = len(kept) - len(balanced)
    rows = Counter(one.of.problem.level for one in balanced)
    levels = [
        AcceptedLevel(level=level, problems=len(shares), share=statistics.fmean(shares), rows=rows[level])
        for level, shares in _shares(found)
    ]
    record = AcceptedReplies(
        problems=len(found),
        solved=sum(one.num_right > 0 for one in found),
        replies=sum(len(one.replies) for one in found),
        right=sum(one.num_right for one in found),
        failed=sum(one.failed for one in found),
        tokens=sum(len(reply.ids) for one in found for reply in one.replies),
        rows=len(balanced),
        **{name: counts[name] for name in ("truncated", "duplicate", "rendered_otherwise", "beyond_problem")},
        beyond_level=counts["beyond_level"],
        levels=levels,
    )
    return balanced, record


def _of_problem(one: Surveyed, most: int, shown: Shown, counts: Counter[str]) -> Iterator[Accepted]:
    seen: set[tuple[str, str]] = set()
    turn = 0
    for number, reply in enumerate(one.replies):
        if not reply.right:
            continue
        text = (reply.reasoning.strip(), reply.content.strip())
        if reply.truncated:
            counts["truncated"] += 1
        elif text in seen:
            counts["duplicate"] += 1
        elif turn == most:
            counts["beyond_problem"] += 1
        elif not shown(one.problem, reply):
            counts["rendered_otherwise"] += 1
        else:
            seen.add(text)
            yield Accepted(one, reply, number, turn)
            turn += 1


def _balanced(kept: Sequence[Accepted], spread: float | None) -> list[Accepted]:
    sizes = Counter(one.of.problem.level for one in kept)
    if spread is None or not sizes:
        return list(kept)
    most = max(1, round(spread * statistics.median(sizes.values())))
    taken: set[tuple[str, int]] = set()
    for level in sizes:
        here = [one for one in kept if one.of.problem.level == level]
        here.sort(key=lambda one: (one.turn, one.of.share))  # stable: then in the order of the problems
        taken |= {(one.of.problem.id, one.number) for one in here[:most]}
    return [one for one in kept if (one.of.problem.id, one.number) in taken]


def _shares(found: Sequence[Surveyed]) -> Iterator[tuple[int, list[float]]]:
    for level in sorted({one.problem.level for one in found}):
        yield level, [one.share for one in found if one.problem.level == level]


def row_of(one: Accepted, instruction: bool) -> dict[str, Any]:
    """The row for tuning: the conversation, the reasoning in its field, and where the reply comes from."""
    about = {"problem": one.of.problem.id, "reply": one.number, "share_right": round(one.of.share, 4)}
    reply: dict[str, Any] = {"role": "assistant", "content": one.reply.content}
    if one.reply.reasoning:
        reply["reasoning_content"] = one.reply.reasoning
    system = [{"role": "system", "content": INSTRUCTION}] if instruction else []
    asked = {"role": "user", "content": one.of.problem.prompt}
    return {"messages": [*system, asked, reply], "metadata": about}


def as_sampled(sampler: Sampler) -> Shown:
    """Whether a row shows exactly the text that was sampled, by the chat template of `sampler`.

    A template may put other white space around reasoning than the model did, or leave reasoning out: tuning
    on such a row would teach what the model never wrote.
    """
    system = [Message("system", INSTRUCTION)] if sampler.instruction else []
    tokenizer = sampler.tokenizer

    def shown(problem: TaskProblem, reply: SurveyedReply) -> bool:
        said = Message("assistant", reply.content, reply.reasoning or None)
        row = conversation_ids(tokenizer, [*system, Message("user", problem.prompt), said])
        sampled = [*sampler.prompt_ids(problem), *reply.ids]
        return row[: len(sampled)] == sampled or tokenizer.decode(row).startswith(tokenizer.decode(sampled))

    return shown
