"""What rejection sampling accepted, and what tuning on it gained: the schema of `reject.json`."""

from __future__ import annotations

from typing import Any

from coterie.config import Settings
from coterie.results.accuracy import Accuracy, AccuracyChange


class AcceptedLevel(Settings):
    """One level: problems asked, the share of right replies, and rows that are learnt."""

    level: int
    problems: int
    share: float
    rows: int


class AcceptedReplies(Settings):
    """Where the replies went: those that are not right, and the right ones by the reason against them.

    `solved`: problems with a right reply. `failed`: replies whose checker failed; they are not among
    `replies`. `truncated`: right, but cut off. `rendered_otherwise`: the chat template does not show them as
    they were sampled. `beyond_problem`, `beyond_level`: more than a problem or a level gives. `tokens`: of
    all replies.
    """

    problems: int
    solved: int
    replies: int
    right: int
    failed: int
    truncated: int
    duplicate: int
    rendered_otherwise: int
    beyond_problem: int
    beyond_level: int
    rows: int
    tokens: int
    levels: list[AcceptedLevel]

    def words(self) -> str:
        """One line for people."""
        reasons = ("truncated", "duplicate", "rendered_otherwise", "beyond_problem", "beyond_level")
        less = [f"{getattr(self, name)} {name.replace('_', ' ')}" for name in reasons if getattr(self, name)]
        return (
            f"{self.right} of {self.replies} replies are right ({self.solved} of {self.problems} problems); "
            f"{self.rows} rows" + (f" (left out: {', '.join(less)})" if less else "")
        )


class RejectRecord(Settings):
    """What a run of rejection sampling was and did.

    `change`: held-out accuracy (split `test`, greedy) of the model that was sampled and of the result.
    `base`: of the model that was tuned, where it is another one. `mean_tokens`: of the replies to `test`,
    before and after. `rows_sha256`: of `rows.jsonl`. `seconds`: of the steps of tuning.
    """

    config: dict[str, Any]
    task: str
    task_version: int
    fingerprint: str
    accepted: AcceptedReplies
    rows_sha256: str
    change: AccuracyChange
    base: Accuracy | None = None
    mean_tokens: tuple[float, float]
    steps: int
    tokens_sampled: int
    tokens_trained: int
    seconds: float
    path: str
    versions: dict[str, str]
