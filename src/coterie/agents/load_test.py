"""A load test of a server: many clients at once; times of replies, goodput and failures."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from coterie.agents.speaker import StreamedReply
from coterie.config.errors import ConfigError, CoterieError
from coterie.remote.client import Endpoint, EndpointError

_WORDS = (
    "river stone light house garden winter paper music engine window market letter mountain silver table"
).split()


@dataclass(frozen=True)
class Load:
    """What to send: `requests` in all, from `clients` at once, each a prompt of `prompt_words` words.

    `max_tokens`: length of a reply. `shared`: all prompts start alike, so that a cached prefix helps. A reply
    is good when its first token comes within `ttft` seconds and the others take at most `tpot` seconds each.
    """

    clients: int = 8
    requests: int = 32
    prompt_words: int = 64
    max_tokens: int = 64
    shared: bool = False
    ttft: float = 2.0
    tpot: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Timed:
    """The times of one reply, in seconds: to its first piece, from there to its end, and between pieces."""

    first: float
    rest: float
    tokens: int
    gaps: tuple[float, ...]

    @property
    def per_token(self) -> float | None:
        """Seconds for each token after the first; None when there was only one."""
        return self.rest / (self.tokens - 1) if self.tokens > 1 else None


def measure(
    endpoint: Endpoint, model: str, load: Load, done: Callable[[int], None] = lambda count: None
) -> dict[str, Any]:
    """Run a load after one unmeasured request; the figures as JSON. `done` is called with the replies so far.

    Errors: `ConfigError` for a load without requests, `EndpointError` when the first request fails.
    """
    if min(load.clients, load.requests, load.prompt_words, load.max_tokens) < 1:
        raise ConfigError("bench: clients, requests, words and tokens must be at least 1")
    _one(endpoint, model, load, -1)
    replies: list[Timed] = []
    failures: Counter[str] = Counter()
    numbers, lock = iter(range(load.requests)), threading.Lock()

    def client() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                timed: Timed | None = _one(endpoint, model, load, number)
                reason = ""
            except CoterieError as error:
                known = getattr(error, "code", None) or getattr(error, "status", None)
                timed, reason = None, str(known or "broken off")
            with lock:
                if timed is not None:
                    replies.append(timed)
                else:
                    failures[reason] += 1
                done(len(replies) + failures.total())

    started = time.perf_counter()
    threads = [threading.Thread(target=client, daemon=True) for _ in range(min(load.clients, load.requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    return {"load": asdict(load), "model": model, "seconds": round(seconds, 3)} | figures(
        replies, failures, seconds, load
    )


def figures(replies: Sequence[Timed], failures: Counter[str], seconds: float, load: Load) -> dict[str, Any]:
    """Counts, tokens and good replies per second over all clients, and percentiles in milliseconds."""
    good = [r for r in replies if r.first <= load.ttft and (r.per_token or 0.0) <= load.tpot]
    per_token = [r.per_token for r in replies if r.per_token is not None]
    return {
        "replies": len(replies),
        "failures": dict(failures),
        "requests_per_second": len(replies) / seconds,
        "tokens_per_second": sum(r.tokens for r in replies) / seconds,
        "good_per_second": len(good) / seconds,
        "good_share": len(good) / load.requests,
        "first_token_ms": percentiles([r.first for r in replies]),
        "per_token_ms": percentiles(per_token),
        "between_pieces_ms": percentiles([gap for r in replies for gap in r.gaps]),
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """p50, p90, p99 and the largest, in milliseconds, by nearest rank; None without times."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    at = {f"p{p}": ordered[max(0, -(-p * len(ordered) // 100) - 1)] for p in (50, 90, 99)}
    return {name: round(1000 * value, 3) for name, value in (at | {"max": ordered[-1]}).items()}


def prompt_of(load: Load, number: int) -> str:
    """The prompt of request `number`: it differs from the first word on, or only at the end if shared."""
    words = random.Random(f"{load.seed}") if load.shared else random.Random(f"{load.seed} {number}")
    text = " ".join(words.choice(_WORDS) for _ in range(load.prompt_words))
    return f"{text} {number}" if load.shared else f"{number} {text}"


def _one(endpoint: Endpoint, model: str, load: Load, number: int) -> Timed:
    """Send one request and time its stream.

    Errors: `EndpointError`, also for a stream that ends early; `CoterieError` for a reply without usage.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt_of(load, number)}],
        "max_tokens": load.max_tokens,
        "temperature": 1.0,
        "seed": number + 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    times: list[float] = []
    reply = StreamedReply(lambda kind, text: times.append(time.perf_counter()))
    started = time.perf_counter()
    for event in endpoint.events("/v1/chat/completions", body):
        reply.feed(event)
    turn = reply.turn()
    if reply.finish_reason is None:
        raise EndpointError("the stream ended before the reply was complete", code="cut off")
    if turn.completion_tokens is None:
        raise CoterieError("bench: the server does not report the tokens of a reply (usage in streams)")
    first = (times[0] if times else time.perf_counter()) - started
    rest = times[-1] - times[0] if times else 0.0
    gaps = tuple(b - a for a, b in itertools.pairwise(times))
    return Timed(first, rest, turn.completion_tokens, gaps)


def words_of(measured: dict[str, Any]) -> str:
    """The figures for people."""
    failed = sum(measured["failures"].values())
    lines = [
        f"{measured['replies']} replies, {failed} failed, {measured['seconds']:.1f} s",
        f"{measured['tokens_per_second']:.1f} tokens/s, {measured['requests_per_second']:.2f} replies/s, "
        f"{measured['good_per_second']:.2f} good ones/s ({100 * measured['good_share']:.0f} %)",
    ]
    for name, key in (
        ("first token", "first_token_ms"),
        ("per token", "per_token_ms"),
        ("between pieces", "between_pieces_ms"),
    ):
        found = measured[key]
        if found is not None:
            lines.append(
                f"{name:<16}" + "".join(f"{p} {value:>9.1f} ms  " for p, value in found.items()).rstrip()
            )
    lines += [f"failed: {count} x {reason}" for reason, count in measured["failures"].items()]
    return "\n".join(lines)
