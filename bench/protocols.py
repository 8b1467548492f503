"""What each protocol costs the server over chat, for the same conversation and the same reply.

    python bench/protocols.py [--tokens 64] [--prompt 200] [--rounds 60]

One round asks once in every protocol, streamed, in a random order; the cost is the server process's CPU time.
The ratio of a protocol is the median over rounds of its cost over that of chat in the same round. Replies are
greedy, so that all have the same tokens; the run fails where they have not. `bench/serve.py` runs this too.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from common import RESULTS, environment, median_ratio, write_json
from server import ServerProcess, coterie_server, lines, make_checkpoint

CHAT = "chat"
WORDS = "fox river stone garden window letter number yellow morning winter table paper little old".split()


def asked(text: str, tokens: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """The path and body of the same request in every protocol."""
    messages = [{"role": "user", "content": text}]
    same = {"model": "bench", "temperature": 0, "stream": True}
    options = {"temperature": 0, "num_predict": tokens}
    return {
        CHAT: ("/v1/chat/completions", {**same, "messages": messages, "max_tokens": tokens}),
        "responses": ("/v1/responses", {**same, "input": text, "max_output_tokens": tokens, "store": False}),
        "responses, stored": ("/v1/responses", {**same, "input": text, "max_output_tokens": tokens}),
        "messages": ("/v1/messages", {**same, "messages": messages, "max_tokens": tokens}),
        "ollama": ("/api/chat", {"model": "bench", "messages": messages, "options": options}),
    }


def reply_of(events: list[dict[str, Any]]) -> str:
    """The text of a streamed reply of any protocol."""
    text = ""
    for event in events:
        for choice in event.get("choices", ()):
            text += choice["delta"].get("content") or ""
        if event.get("type") == "response.output_text.delta":
            text += event["delta"]
        if event.get("type") == "content_block_delta":
            text += event["delta"].get("text", "")
        text += event.get("message", {}).get("content", "") if "done" in event else ""
    return text


def compare(server: ServerProcess, tokens: int, words: int, rounds: int) -> dict[str, Any]:
    """Seconds of CPU and of waiting in each protocol, and the ratios to chat. Errors: `RuntimeError`."""
    process, rng = psutil.Process(server.process.pid), random.Random(0)
    costs: dict[str, list[float]] = {}
    waits: dict[str, list[float]] = {}
    for number in range(rounds + 2):
        # The prompt is read once before, so that no protocol pays for it alone.
        text = " ".join(rng.choice(WORDS) for _ in range(words))
        given = asked(text, tokens)
        lines(server.url, *given[CHAT])
        order = list(given)
        rng.shuffle(order)
        replies = {}
        for name in order:
            before, begun = cpu_seconds(process), time.perf_counter()
            replies[name] = reply_of(lines(server.url, *given[name]))
            wait = time.perf_counter() - begun
            time.sleep(0.02)  # what the server does after the last byte counts too
            if number >= 2:
                costs.setdefault(name, []).append(cpu_seconds(process) - before)
                waits.setdefault(name, []).append(wait)
        if len(set(replies.values())) > 1:
            raise RuntimeError(f"the replies differ: {json.dumps(replies)[:400]}")
    return {
        name: {
            "cpu_seconds": statistics.median(costs[name]),
            "wall_seconds": statistics.median(waits[name]),
            "cpu_over_chat": round(median_ratio(costs[name], costs[CHAT]), 4),
            "wall_over_chat": round(median_ratio(waits[name], waits[CHAT]), 4),
        }
        for name in costs
    }


def cpu_seconds(process: psutil.Process) -> float:
    """What a process has used so far, its threads together."""
    used = Path(f"/proc/{process.pid}/schedstat")
    if used.exists():  # nanoseconds; cpu_times counts in hundredths
        tasks = Path(f"/proc/{process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Measure and write bench/results/protocols.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=200, help="words")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        parameters = make_checkpoint(path)
        server = coterie_server(path, "--state-dir", str(Path(folder) / "state"))
        try:
            found = compare(server, options.tokens, options.prompt, options.rounds)
        finally:
            server.stop()
    for name, row in found.items():
        print(f"{name:18} cpu {row['cpu_over_chat']:.3f}  wall {row['wall_over_chat']:.3f} of chat")
    record = {"environment": environment(), "settings": vars(options), "parameters": parameters}
    write_json(RESULTS / "protocols.json", {**record, "protocols": found})


if __name__ == "__main__":
    main()
