"""Reports made by hand, for tests that need no model."""

from __future__ import annotations

from typing import Any

from coterie.results.evaluation import EvalReport, TaskResult

DIGEST = "sha256:" + "5" * 64


def task(
    name: str, value: float, low: float | None = None, high: float | None = None, **more: Any
) -> TaskResult:
    """One task's result with a score and its interval."""
    return TaskResult.from_dict(
        {
            "id": name,
            "version": "1",
            "mode": "reply",
            "items": DIGEST,
            "n": 100,
            "cluster_key": "template",
            "prompt": {"form": "chat", "template": DIGEST, "extractor": DIGEST, "max_tokens": 64},
            "score": {
                "value": value,
                "low": value if low is None else low,
                "high": value if high is None else high,
                "metric": "accuracy",
                "method": "wilson",
                "clusters": 100,
                "mde80": 0.11,
            },
            "extraction": {"unparsed": 2, "truncated": 1, "failed": 0},
            "samples": {"path": f"samples/{name}.jsonl", "rows": 100, "merkle_root": DIGEST},
            **more,
        }
    )


def report(*tasks: TaskResult, **more: Any) -> EvalReport:
    """A report of these tasks about a model that nobody has."""
    facts: dict[str, Any] = {
        "created": "2026-11-29T06:00:00+00:00",
        "subject": {"name": "tiny", "weights_tensors": DIGEST, "tokenizer": DIGEST, "chat_template": DIGEST},
        "exec_profile": {"engine": "coterie", "version": "0.1.0", "dtype": "float32", "dropless": True},
        "seeds": {"items": 0},
        "tasks": [one.to_dict() for one in tasks],
        "verdict": "PASS",
    }
    return EvalReport.from_dict(facts | more)
