"""Our server against `transformers serve` and llama.cpp's: throughput, first token, time per token.

    python bench/serve.py [--transformers PYTHON] [--llama-server PROGRAM] [--kind f32|bf16|int8|int4]
    [--tokens 32] [--prompt 200] [--rounds 2] [--clients 1 4 16] [--different]

All serve one checkpoint, in one run. `--transformers`: an interpreter with `transformers[serving]`.
`--llama-server`: llama.cpp's program, or bench/llama_server.py where the wheel xllamacpp is installed. It
gets the checkpoint as GGUF of the same kind (Q8_0 and Q4_0 for 8 and 4 bits). A server without its option is
not measured. `--different`: only prompts that share nothing, and no comparison of protocols. Clients and
server share the machine; each server has one thread for its arithmetic.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from common import RESULTS, environment, write_json
from protocols import compare
from server import ServerProcess, coterie_server, make_checkpoint, request, stream

WORDS = "fox river stone garden window letter number yellow morning winter table paper little old".split()
WORDS += ["quick", "bright"]
GGUF = {"f32": "f32", "bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}


def prompts(count: int, words: int, shared: bool, seed: int) -> list[str]:
    """Texts of random words; `shared`: all but the last ten words are the same."""
    rng = random.Random(seed)
    start = [rng.choice(WORDS) for _ in range(words - 10)]
    texts = []
    for _ in range(count):
        head = start if shared else [rng.choice(WORDS) for _ in range(words - 10)]
        texts.append(" ".join(head + [rng.choice(WORDS) for _ in range(10)]))
    return texts


def quantile(values: list[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def measure(url: str, model: str, clients: int, shared: bool, options: argparse.Namespace) -> dict[str, Any]:
    """One load: every client asks `rounds` times, one request after another."""
    texts = prompts(clients * options.rounds, options.prompt, shared, seed=clients + 100 * shared)

    def ask(text: str) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0,
                "max_tokens": options.tokens}  # fmt: skip
        return stream(url, body)

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        timings = list(pool.map(ask, texts))
    wall = time.perf_counter() - begun
    gaps = [gap for timing in timings for gap in timing.gaps]
    per_token = [(t.total - t.first) / (t.tokens - 1) for t in timings if t.tokens > 1]
    return {
        "clients": clients,
        "shared": shared,
        "requests": len(timings),
        "tokens": sum(timing.tokens for timing in timings),
        "tokens_per_second": sum(timing.tokens for timing in timings) / wall,
        "first_token_seconds": {"p50": statistics.median(t.first for t in timings),
                                "p99": quantile([t.first for t in timings], 0.99)},
        "per_token_seconds": {"p50": statistics.median(per_token), "p99": quantile(per_token, 0.99)},
        "gap_seconds": {"p50": quantile(gaps, 0.5), "p99": quantile(gaps, 0.99)},
    }  # fmt: skip


def theirs(python: str, path: Path, port: int, batching: bool) -> ServerProcess:
    """`transformers serve`, with continuous batching or as it comes."""
    command = [python, "-m", "transformers.cli.transformers", "serve", str(path), "--port", str(port)]
    command += ["--device", "cpu", "--dtype", "float32", *(["--continuous-batching"] if batching else [])]
    return ServerProcess(command, f"http://localhost:{port}")


def llama(program: str, path: Path, port: int, slots: int, kind: str) -> ServerProcess:
    """llama.cpp's server with a slot for every client; its prompt cache is on, as it comes."""
    from coterie.gguf.export import export_gguf

    file = path.with_suffix(".gguf")
    export_gguf(path, file, GGUF[kind])
    python = program.endswith(".py")
    command = [*([sys.executable] if python else []), program, "-m", str(file), "--port", str(port)]
    command += ["--threads", "1", "--parallel", str(slots), "--ctx-size", str(1024 * slots)]
    command += [] if python else ["--jinja", "--no-webui", "--threads-batch", "1"]
    return ServerProcess(command, f"http://127.0.0.1:{port}")


def run(server: ServerProcess, model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every load on one server, which is then stopped."""
    rows = []
    try:
        stream(
            server.url,
            {"model": model, "messages": [{"role": "user", "content": "warm up"}], "max_tokens": 4},
        )
        for shared in (False,) if options.different else (False, True):
            for clients in options.clients:
                row = measure(server.url, model, clients, shared, options)
                print(f"  {clients:3} clients, shared={shared}: {row['tokens_per_second']:.1f} tokens/s, "
                      f"first {row['first_token_seconds']['p50']:.3f} s, "
                      f"gap {row['gap_seconds']['p50']:.4f} / {row['gap_seconds']['p99']:.4f} s",
                      flush=True)  # fmt: skip
                rows.append(row)
    finally:
        server.stop()
    return rows


def main() -> None:
    """Measure and write bench/results/serve.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--transformers", default=None)
    parser.add_argument("--llama-server", default=None)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=200, help="words")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--port", type=int, default=18731)
    parser.add_argument("--kind", choices=sorted(GGUF), default="f32")
    parser.add_argument("--different", action="store_true")
    options = parser.parse_args()
    settings = {name: getattr(options, name) for name in ("kind", "tokens", "prompt", "rounds", "clients")}
    record: dict[str, Any] = {"environment": environment(), "settings": settings, "servers": {}}
    for given, word in ((options.transformers, "PYTHON"), (options.llama_server, "PROGRAM")):
        if given:
            record["environment"]["command"] = record["environment"]["command"].replace(given, word)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        record["parameters"] = make_checkpoint(path)
        print("coterie serve", flush=True)
        quant = ["--quant", options.kind] if options.kind in ("int8", "int4") else []
        dtype = ["--dtype", "float32" if options.kind == "f32" else "bfloat16"]
        server = coterie_server(path, *dtype, *quant, "--slots", str(max(options.clients)), "--no-store")
        record["prompt_tokens"] = _prompt_tokens(server.url, options)
        record["servers"]["coterie"] = run(server, "bench", options)
        if not options.different:
            record["protocols"] = _protocols(path, Path(folder) / "state", options)
        for name, start in others(path, options).items():
            print(name, flush=True)
            try:
                record["servers"][name] = run(start(), str(path), options)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                record["servers"][name] = {"failed": str(error).replace(folder, "")[:300]}
                print(f"  not measured: {error}", flush=True)
    record["ratios"] = ratios(record["servers"])
    print(record["ratios"])
    write_json(RESULTS / "serve.json", record)


def others(path: Path, options: argparse.Namespace) -> dict[str, Callable[[], ServerProcess]]:
    """How to start each of the other servers that was given."""
    found: dict[str, Callable[[], ServerProcess]] = {}
    if python := options.transformers:
        found["transformers"] = lambda: theirs(python, path, options.port, batching=False)
        found["transformers, continuous batching"] = lambda: theirs(
            python, path, options.port + 1, batching=True
        )
    if program := options.llama_server:
        found["llama.cpp"] = lambda: llama(
            program, path, options.port + 2, max(options.clients), options.kind
        )
    return found


def _protocols(path: Path, state: Path, options: argparse.Namespace) -> dict[str, Any]:
    server = coterie_server(path, "--state-dir", str(state))
    try:
        return compare(server, options.tokens, options.prompt, rounds=10 * options.rounds)
    finally:
        server.stop()


def _prompt_tokens(url: str, options: argparse.Namespace) -> int:
    import json

    text = prompts(1, options.prompt, False, 1)[0]
    body = {"messages": [{"role": "user", "content": text}]}
    return int(json.loads(request(url, "POST", "/tokenize", body)[1])["count"])


def ratios(servers: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Our throughput over that of each other server, for each load that both bore."""
    found: dict[str, dict[str, float]] = {}
    for index, row in enumerate(servers["coterie"]):
        label = f"{row['clients']} clients, {'shared' if row['shared'] else 'different'} prompts"
        found[label] = {
            name: round(row["tokens_per_second"] / rows[index]["tokens_per_second"], 2)
            for name, rows in servers.items()
            if name != "coterie" and isinstance(rows, list)
        }
    return found


if __name__ == "__main__":
    main()
