"""How long prompts of others hold up replies under way, with `coterie serve --max-stall` and without.

python bench/stall.py [--width 768] [--layers 8] [--talkers 4] [--tokens 160] [--prompt 1500] [--rounds 2]
Some clients get replies all the time; another sends long prompts, one after the other. Both servers are up,
one at a time is asked; each has one thread for its arithmetic.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import RESULTS, environment, median, write_json
from serve import prompts, quantile
from server import coterie_server, make_checkpoint, stream

NEVER = 1e6  # seconds: no step is as long, so prompts are read in whole chunks


def measure(url: str, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One round: the gaps within replies, and the waits for the first token of long prompts."""
    short = prompts(options.talkers, 20, False, seed)
    long = iter(prompts(1000, options.prompt, False, seed + 1))
    done = threading.Event()

    def ask(text: str, tokens: int) -> Any:
        return stream(
            url,
            {
                "model": "bench",
                "messages": [{"role": "user", "content": text}],
                "temperature": 0,
                "max_tokens": tokens,
            },
        )

    def read() -> list[float]:
        firsts = []
        while not done.is_set():
            firsts.append(ask(next(long), 4).first)
        return firsts

    with ThreadPoolExecutor(options.talkers + 1) as pool:
        talkers = [pool.submit(ask, text, options.tokens) for text in short]
        reader = pool.submit(read)
        timings = [talker.result() for talker in talkers]
        done.set()
        firsts = reader.result()
    gaps = [gap for timing in timings for gap in timing.gaps]
    return {
        "gap_p50": quantile(gaps, 0.5),
        "gap_p99": quantile(gaps, 0.99),
        "gap_max": max(gaps),
        "first_token_of_long_prompts": median(firsts),
        "long_prompts": len(firsts),
    }


def main() -> None:
    """Measure and write bench/results/stall.json."""
    parser = argparse.ArgumentParser()
    for name, value in (
        ("width", 768),
        ("layers", 8),
        ("talkers", 4),
        ("tokens", 160),
        ("prompt", 1500),
        ("rounds", 2),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    record: dict[str, Any] = {"environment": environment(), "settings": vars(options), "rounds": {}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        record["parameters"] = make_checkpoint(path, options.width, options.layers)
        servers = {
            name: coterie_server(path, *given)
            for name, given in {"default": [], "whole chunks": ["--max-stall", str(NEVER)]}.items()
        }
        try:
            for turn in range(options.rounds):
                for name, server in servers.items():
                    row = measure(server.url, options, 10 * turn)
                    print(
                        f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()),
                        flush=True,
                    )
                    record["rounds"].setdefault(name, []).append(row)
        finally:
            for server in servers.values():
                server.stop()
    write_json(RESULTS / "stall.json", record)


if __name__ == "__main__":
    main()
