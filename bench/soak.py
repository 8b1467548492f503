"""A server under mixed load for a long time: memory, threads and descriptors must stay where they were.

python bench/soak.py [--minutes 20]
Exits with 1 when one of them grew by more than 1 %, or a request was lost. Writes bench/results/soak.json.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from common import RESULTS, environment, write_json
from server import coterie_server, lines, make_checkpoint, request, stream

NUMBER = {"type": "integer", "minimum": 0, "maximum": 9}
SCHEMA = {"type": "object", "properties": {"n": NUMBER}, "required": ["n"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
CHAT = "/v1/chat/completions"


def _responses(url: str, text: str, rng: random.Random) -> None:
    """A conversation of two turns, the second by the id of the first; some are then deleted."""
    body = {"model": "bench", "input": text, "max_output_tokens": 12, "logit_bias": {"3": -100}}
    first = json.loads(_good(url, "/v1/responses", body) or "{}")
    if not first:
        return
    more = {**body, "input": "go on", "previous_response_id": first["id"], "stream": True}
    lines(url, "/v1/responses", more, stop_after=rng.choice([None, 3]))
    if rng.random() < 0.5:
        request(url, "DELETE", f"/v1/responses/{first['id']}")


def _messages(url: str, text: str, rng: random.Random) -> None:
    body = {"model": "bench", "messages": [{"role": "user", "content": text}], "max_tokens": 16}
    _good(url, "/v1/messages/count_tokens", {name: body[name] for name in ("model", "messages")})
    tool = {"name": "add", "input_schema": SCHEMA}
    forced = {"tools": [tool], "tool_choice": {"type": "any"}} if rng.random() < 0.5 else {}
    lines(url, "/v1/messages", {**body, **forced, "stream": True}, stop_after=rng.choice([None, None, 4]))


def _ollama(url: str, text: str, rng: random.Random) -> None:
    body = {"model": "bench", "messages": [{"role": "user", "content": text}], "options": {"num_predict": 16}}
    lines(url, "/api/chat", body, stop_after=rng.choice([None, None, 2]))
    _good(url, "/api/embed", {"model": "bench", "input": text})


def _rerank(url: str, text: str, rng: random.Random) -> None:
    _good(url, "/v1/rerank", {"model": "bench", "query": "fox", "documents": [text, text[::-1]]})


def _good(url: str, path: str, body: dict[str, Any]) -> bytes | None:
    """The answer; None from a full queue. Errors: `RuntimeError` for any other refusal."""
    status, answer = request(url, "POST", path, body)
    if status not in (200, 429):
        raise RuntimeError(f"{path}: {status} {answer[:200]!r}")
    return answer if status == 200 else None


PROTOCOLS = {"responses": _responses, "messages": _messages, "ollama": _ollama, "rerank": _rerank}
KINDS = ["stream", "plain", "json", "tool", "hang up", "echo", "embed", "wrong", *PROTOCOLS]


def one(url: str, rng: random.Random) -> str:
    """Send a request of a random kind; returns its outcome."""
    kind = rng.choice(KINDS)
    text = " ".join(rng.choice(["fox", "river", "stone"]) for _ in range(rng.randrange(5, 120)))
    body: dict[str, Any] = {
        "model": "bench",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 24,
        "logit_bias": {"3": -100},
    }
    if kind in PROTOCOLS:
        PROTOCOLS[kind](url, text, rng)
    elif kind == "stream":
        stream(url, body)
    elif kind == "hang up":
        stream(url, {**body, "max_tokens": 200}, stop_after=2)
    else:
        more: dict[str, tuple[str, dict[str, Any], int]] = {
            "plain": (CHAT, {**body, "logprobs": True, "top_logprobs": 2, "n": 2}, 200),
            "json": (
                CHAT,
                {
                    **body,
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "x", "schema": SCHEMA},
                    },
                },
                200,
            ),
            "tool": (
                CHAT,
                {**body, "tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
                200,
            ),
            "echo": (
                "/v1/completions",
                {"model": "bench", "prompt": text, "echo": True, "logprobs": 1, "max_tokens": 1},
                200,
            ),
            "embed": ("/v1/embeddings", {"model": "bench", "input": [text, text]}, 200),
            "wrong": (CHAT, {**body, "temprature": 1}, 400),
        }
        path, sent, expected = more[kind]
        status, answer = request(url, "POST", path, sent)
        if status not in (expected, 429):
            raise RuntimeError(f"{kind}: {status} {answer[:200]!r}")
    return kind


def soak(minutes: float, clients: int) -> dict[str, Any]:
    """Load a server and watch its process; the record."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        make_checkpoint(path, width=64, layers=3, experts=8, positions=1024)
        kept = ("--state-dir", str(Path(folder) / "state"), "--store-mb", "4")
        server = coterie_server(path, "--slots", "8", "--prefix-cache-mb", "4", *kept)
        process = psutil.Process(server.process.pid)
        counts: Counter[str] = Counter()
        failures: list[str] = []
        end = time.monotonic() + 60 * minutes

        def client(seed: int) -> None:
            rng = random.Random(seed)
            while time.monotonic() < end:
                try:
                    counts[one(server.url, rng)] += 1
                except Exception as error:
                    failures.append(f"{type(error).__name__}: {error}"[:200])

        workers = [threading.Thread(target=client, args=(seed,)) for seed in range(clients)]
        for worker in workers:
            worker.start()
        samples = []
        while time.monotonic() < end:
            time.sleep(min(1.0, 60 * minutes / 60))
            samples.append((process.memory_info().rss, process.num_threads(), process.num_fds()))
        for worker in workers:
            worker.join(timeout=120)
        time.sleep(1)
        stats = json.loads(request(server.url, "GET", "/ready")[1])
        metrics = request(server.url, "GET", "/metrics")[1].decode()
        server.stop()
    idle = all(
        f"{name} 0" in metrics for name in ("coterie_running", "coterie_queue_depth", "coterie_kv_bytes")
    )
    return {
        "minutes": minutes,
        "clients": clients,
        "requests": dict(counts),
        "failures": failures[:20],
        "num_failures": len(failures),
        "ready": stats,
        "idle_at_the_end": idle,
        **growth(samples),
    }


def growth(samples: list[tuple[int, int, int]]) -> dict[str, Any]:
    """Medians of the third and the last fifth of the samples.

    Earlier ones are left out, because caches of compiled code still fill.
    """
    fifth = max(1, len(samples) // 5)
    record: dict[str, Any] = {}
    for place, name in enumerate(("memory_bytes", "threads", "descriptors")):
        early = statistics.median(sample[place] for sample in samples[2 * fifth : 3 * fifth] or samples)
        late = statistics.median(sample[place] for sample in samples[-fifth:])
        record[name] = {"early": early, "late": late, "growth": (late - early) / early}
    return record


def main() -> None:
    """Run, write, judge."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json")
    options = parser.parse_args()
    record = soak(options.minutes, options.clients)
    write_json(options.out, {"environment": environment(), **record})
    print(json.dumps(record, indent=1))
    grown = [name for name in ("memory_bytes", "threads", "descriptors") if record[name]["growth"] > 0.01]
    if grown or record["num_failures"] or not record["idle_at_the_end"]:
        sys.exit(f"soak: grew: {', '.join(grown) or 'nothing'}; failures: {record['num_failures']}")


if __name__ == "__main__":
    main()
