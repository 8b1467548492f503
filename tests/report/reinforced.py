"""Made-up reinforcement runs for the tests of their pages. Nothing in them is a measurement."""

from __future__ import annotations

from typing import Any

from coterie.report.reinforce_page import DrawnRun
from coterie.report.rollouts import keep_rollouts
from coterie.results.accuracy import accuracy, accuracy_change
from coterie.results.reinforce import (
    HeldOutMeasured,
    HeldOutReply,
    ReinforceRecord,
    ReinforceStart,
    choose_samples,
)

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \u2028 {{ title }} <!--"
RIGHT_BEFORE, RIGHT_AFTER = (4, 12), (11, 2)  # of 12 problems: the first ones are right, but for `lost`


def kept(step: int, problem: int, right: bool, content: str = "", **more: Any) -> dict[str, Any]:
    """One row of `rollouts/`."""
    return {
        "problem": f"toy/{problem % 2}/{problem}", "level": problem % 2, "prompt": f"Problem {problem}?",
        "answer": str(problem), "reasoning": "because", "content": content or f"Answer: {step}",
        "reward": float(right), "parts": {"right": float(right), "form": 0.5}, "why": "as wanted",
        "truncated": False, "right": right, "learnt": True, "advantage": 0.5 if right else -0.5,
        "ids": [1, 2], "logprobs": [-0.5, -1.5],
    } | more  # fmt: skip


def reply(problem: int, right: bool, content: str) -> HeldOutReply:
    """A greedy reply."""
    return HeldOutReply(
        problem=f"toy/0/{problem}", level=0, prompt=f"Say {problem} <b>", answer=str(problem),
        reasoning="first & then", content=content, right=right, tokens=4 + 6 * right, truncated=False,
        why="no such answer" if not right else "",
    )  # fmt: skip


def measured(right: list[bool], content: str) -> HeldOutMeasured:
    """A measurement with one reply for each of `right`."""
    return HeldOutMeasured(held_out=[reply(at, one, content) for at, one in enumerate(right)], beyond=[])


def metrics(steps: int, cost: float = 100.0) -> list[dict[str, Any]]:
    """Records of a run whose accuracy rises evenly to 75 %, evaluated at every second step."""
    records: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        records.append({
            "kind": "rollout", "step": step, "reward": 0.1 * step, "right": 0.1 * step, "informative": 1.0,
            "tokens": 50, "tokens_per_reply": 5.0, "entropy": 1.0, "truncated": 0.0, "mismatch": 1e-6,
            "sampling_flops": 3 * cost, "training_flops": cost,
        })  # fmt: skip
        records.append({"kind": "train", "step": step, "tokens": 20 * step, "loss": 0.0, "grad_norm": 0.1})
        if step % 2 == 0:
            found = accuracy([at < 12 * 0.75 * step / steps for at in range(12)])
            shares = {"val_right": found.value, "val_low": found.low, "val_high": found.high}
            records.append({"kind": "eval", "step": step, **shares})
    return records


def run(
    name: str = "toy-run",
    before: list[bool] | None = None,
    after: list[bool] | None = None,
    ended: bool = True,
    cost: float = 100.0,
    **more: Any,
) -> DrawnRun:
    """A run of 4 steps; `before` and `after`: which held-out problems are answered rightly."""
    before = before or [True] * 5 + [False] * 25
    after = after or [False] * 1 + [True] * 24 + [False] * 5
    first, last = measured(before, "before <i>"), measured(after, HOSTILE)
    readiness = {
        "problems": 8, "group": 4, "mean": 0.2, "any_of_group": 0.5, "informative": 0.5, "truncated": 0.0,
        "mean_tokens": 5.0, "long_right": None, "short_right": None,
    }  # fmt: skip
    start = ReinforceStart.from_dict({
        "config": {"model": "m", "steps": 4, "policy": {"clip": "none"}}, "inputs": {},
        "task": "toy", "task_version": 3,
        "size": {"moe": True, "parameters": 5000, "active": 2000, "trainable": 5000}, "readiness": readiness,
        "watched": accuracy([False] * 12).to_dict(), "measured": first.to_dict(), "versions": {"torch": "2"},
    })  # fmt: skip
    record = ReinforceRecord(
        **{key: getattr(start, key) for key in ("config", "task", "task_version", "size", "readiness")},
        change=accuracy_change(before, after), mean_tokens=(first.mean_tokens, last.mean_tokens),
        answered={f"toy/0/{at}": pair for at, pair in enumerate(zip(before, after, strict=True))},
        samples=choose_samples(first, last), ended="finished", steps=4, tokens_sampled=200,
        tokens_trained=80, sampling_flops=12 * cost, training_flops=4 * cost, seconds=9.0, versions={},
        **more,
    )  # fmt: skip
    steps = [
        (step, [kept(step, at, at < step, HOSTILE if at == 3 else "") for at in range(4)])
        for step in range(1, 5)
    ]
    return DrawnRun(name, start, record if ended else None, metrics(4, cost), keep_rollouts(steps))
