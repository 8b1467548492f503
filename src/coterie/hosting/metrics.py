"""Counters in the Prometheus text form, with few, stable names and labels and no text of requests."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_HELP = {
    "coterie_requests_total": ("counter", "Answers by endpoint and status"),
    "coterie_prompt_tokens_total": ("counter", "Prompt tokens, read or found in the prefix cache"),
    "coterie_generation_tokens_total": ("counter", "Tokens generated"),
    "coterie_cancelled_total": ("counter", "Requests dropped because the client disconnected"),
    "coterie_rejected_total": ("counter", "Requests refused by reason"),
    "coterie_ttft_seconds": ("histogram", "From a request's arrival to its first token"),
    "coterie_tpot_seconds": ("histogram", "Between two tokens of a reply"),
}


class Metrics:
    """Counters and histograms, safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._buckets: dict[str, list[int]] = {}
        self._sums: dict[str, float] = defaultdict(float)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        text = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        with self._lock:
            self._counts[name][text] += amount

    def observe(self, name: str, seconds: float, times: int = 1) -> None:
        """Record a duration in its histogram, `times` times."""
        with self._lock:
            buckets = self._buckets.setdefault(name, [0] * (len(_BUCKETS) + 1))
            buckets[bisect_left(_BUCKETS, seconds)] += times
            self._sums[name] += seconds * times

    def set_total(self, name: str, total: float) -> None:
        """Set a counter whose total is kept elsewhere."""
        with self._lock:
            self._counts[name] = defaultdict(float, {"": total})

    def text(self, gauges: dict[str, float]) -> str:
        """The page for Prometheus; `gauges` (name with labels -> value) are appended."""
        lines: list[str] = []
        with self._lock:
            for name, (kind, text) in _HELP.items():
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
                if kind == "counter":
                    values = self._counts.get(name) or {"": 0.0}
                    lines += [f"{name}{{{k}}} {v:g}" if k else f"{name} {v:g}" for k, v in values.items()]
                else:
                    lines += self._histogram(name)
        last = ""
        for name, value in sorted(gauges.items()):
            bare = name.partition("{")[0]
            lines += [f"# TYPE {bare} gauge"] * (bare != last) + [f"{name} {value:g}"]
            last = bare
        return "\n".join(lines) + "\n"

    def _histogram(self, name: str) -> list[str]:
        buckets = self._buckets.get(name, [0] * (len(_BUCKETS) + 1))
        lines, total = [], 0
        for edge, count in zip((*map(str, _BUCKETS), "+Inf"), buckets, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{edge}"}} {total}')
        return [*lines, f"{name}_sum {self._sums[name]:g}", f"{name}_count {total}"]
