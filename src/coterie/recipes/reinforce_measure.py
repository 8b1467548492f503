"""What a policy does on held-out problems, before and after a reinforcement run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from coterie.config.reinforce import PassAtSettings
from coterie.evaluate.stats import mean_interval
from coterie.reinforce.rollouts import RolloutGroup, Sampler
from coterie.results.accuracy import PassAt, PassAtChange, pass_at_k
from coterie.results.reinforce import HeldOutMeasured, HeldOutReply
from coterie.tasks.problem import TaskProblem

_DRAWS = -2  # the place of these samples in a run: before every step, and apart from those of the gate


def measure(
    sampler: Sampler,
    held_out: Sequence[TaskProblem],
    beyond: Sequence[TaskProblem],
    pass_at: PassAtSettings,
    seed: int,
) -> HeldOutMeasured:
    """The most likely reply to each problem, and several sampled ones to the first of `held_out`."""
    sampled: list[RolloutGroup] = []
    if pass_at.problems:
        asked = held_out[: pass_at.problems]
        moe = sampler.model.config.is_moe
        sampled = sampler.groups(asked, pass_at.samples, (seed, _DRAWS), len(asked) if moe else 0)
    judged = [group for group in sampled if not group.num_failed]
    return HeldOutMeasured(
        held_out=[_reply(group) for group in sampler.greedy(held_out)],
        beyond=[_reply(group) for group in sampler.greedy(beyond)],
        pass_at=_pass_at(judged, pass_at.samples) if judged else None,
        experts=_experts(sampler, sampled),
    )


def pass_at_change(before: PassAt | None, after: PassAt | None) -> PassAtChange | None:
    """The change on the problems that were judged both times; None where there is none."""
    if before is None or after is None:
        return None
    both = [problem for problem in before.problems if problem in set(after.problems)]
    if not both:
        return None
    first, second = (_among(found, both) for found in (before, after))
    replies = before.samples
    change = [
        mean_interval(
            [
                pass_at_k([now], replies, k) - pass_at_k([then], replies, k)
                for then, now in zip(first.right, second.right, strict=True)
            ]
        )
        for k in range(1, replies + 1)
    ]
    return PassAtChange(before=first, after=second, change=change)


def _pass_at(groups: Sequence[RolloutGroup], samples: int) -> PassAt:
    return _curve([group.problem.id for group in groups], [group.num_right for group in groups], samples)


def _among(found: PassAt, problems: Sequence[str]) -> PassAt:
    right = dict(zip(found.problems, found.right, strict=True))
    return _curve(problems, [right[problem] for problem in problems], found.samples)


def _curve(problems: Sequence[str], right: Sequence[int], samples: int) -> PassAt:
    curve = [
        mean_interval([pass_at_k([count], samples, k) for count in right]) for k in range(1, samples + 1)
    ]
    return PassAt(problems=list(problems), samples=samples, right=list(right), curve=curve)


def _experts(sampler: Sampler, groups: Sequence[RolloutGroup]) -> dict[int, list[int]]:
    """How often each expert of a layer was chosen in the replies whose routing was recorded."""
    counts: dict[int, Counter[int]] = {}
    for group in groups:
        for rollout in group.rollouts:
            for token in rollout.routing:
                for layer, experts, _ in token.layers:
                    counts.setdefault(layer, Counter()).update(experts)
    sizes = {layer: router.config.num_experts for layer, router in sampler.model.routers()}
    return {layer: [found[expert] for expert in range(sizes[layer])] for layer, found in counts.items()}


def _reply(group: RolloutGroup) -> HeldOutReply:
    problem, rollout = group.problem, group.rollouts[0] if group.rollouts else None
    reasoning, content = ("", "") if rollout is None else (rollout.reasoning, rollout.content)
    if rollout is not None and rollout.num_replies > 1:
        reasoning, content = "", rollout.transcript
    return HeldOutReply(
        problem=problem.id,
        level=problem.level,
        prompt=problem.prompt,
        answer=problem.answer,
        reasoning=reasoning,
        content=content,
        right=group.num_right > 0,
        tokens=0 if rollout is None else len(rollout.ids),
        truncated=rollout is not None and rollout.truncated,
        why=f"the checker failed: {group.why_failed}" if rollout is None else rollout.verdict.why,
    )
