"""Every kept reply of a reinforcement run: figures of each step, and the replies packed for one page."""

from __future__ import annotations

import base64
import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BUDGET = 8_000_000  # characters of packed replies in a page
_LEFT_OUT = frozenset({"ids", "logprobs", "segments", "problem", "level", "prompt", "answer"})

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class PackedStep:
    """The replies of one step: JSON, compressed by gzip, in base64."""

    step: int
    replies: int
    data: str


@dataclass(frozen=True)
class KeptRollouts:
    """What was kept of a run. `steps`, `replies`: of the whole run; `packed`: the steps that fit into a page.

    `by_level`: share of right replies by step, for each level. `parts`: the mean of each part of the reward
    by step.
    """

    steps: int
    replies: int
    packed: Sequence[PackedStep]
    by_level: Mapping[int, Points]
    parts: Mapping[str, Points]

    @property
    def whole(self) -> bool:
        """Whether every step is packed."""
        return len(self.packed) == self.steps


def keep_rollouts(
    steps: Iterable[tuple[int, Sequence[Mapping[str, Any]]]], budget: int = BUDGET
) -> KeptRollouts:
    """Read the replies of all steps, one step at a time, and pack what fits into `budget` characters.

    Beyond it, evenly spaced steps are packed, the first and the last among them.
    """
    packed: list[PackedStep] = []
    by_level: dict[int, Points] = defaultdict(list)
    parts: dict[str, Points] = defaultdict(list)
    for step, replies in steps:
        packed.append(PackedStep(step, len(replies), pack(replies)))
        for level in sorted({reply["level"] for reply in replies}):
            here = [reply["right"] for reply in replies if reply["level"] == level]
            by_level[level].append((step, sum(here) / len(here)))
        for name in sorted({name for reply in replies for name in reply["parts"]}):
            values = [reply["parts"][name] for reply in replies if name in reply["parts"]]
            parts[name].append((step, sum(values) / len(values)))
    total = sum(one.replies for one in packed)
    return KeptRollouts(len(packed), total, _fitting(packed, budget), dict(by_level), dict(parts))


def pack(replies: Sequence[Mapping[str, Any]]) -> str:
    """One step's replies for `rollouts.js`: problems once, their replies without token ids, compressed."""
    problems: dict[str, dict[str, Any]] = {}
    for reply in replies:
        entry = problems.setdefault(
            reply["problem"], {key: reply[key] for key in ("problem", "level", "prompt", "answer")}
        )
        entry.setdefault("replies", []).append(_shown(reply))
    return compressed([*problems.values()])


def compressed(rows: Sequence[Any]) -> str:
    """Rows as JSON, compressed by gzip, in base64: what a page's script unpacks."""
    text = json.dumps(rows, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _shown(reply: Mapping[str, Any]) -> dict[str, Any]:
    logprobs = reply.get("logprobs", ())
    shown = {key: value for key, value in reply.items() if key not in _LEFT_OUT}
    shown |= {"tokens": len(logprobs)}
    return shown | ({"mean_logprob": round(sum(logprobs) / len(logprobs), 4)} if logprobs else {})


def _fitting(packed: Sequence[PackedStep], budget: int) -> list[PackedStep]:
    """As many evenly spaced steps as the budget holds."""
    mean = sum(len(one.data) for one in packed) / max(1, len(packed))
    most = min(len(packed), round(1.5 * budget / max(1.0, mean)) + 2)
    for count in range(most, 1, -1):
        chosen = [packed[round(at * (len(packed) - 1) / (count - 1))] for at in range(count)]
        if sum(len(one.data) for one in chosen) <= budget:
            return chosen
    return [one for one in packed[-1:] if len(one.data) <= budget]
