"""Two checkouts of coterie against each other: training, prompts, decoding, tuning and serving.

Both sides are driven by their public commands and by `coterie.load`, so that a refactoring cannot break the
comparison. Both sides run at the same time, each on its own core with one thread, and change cores in the
next round: other programs on the machine then slow both. A ratio is taken within a round. A ratio above 1
means that this checkout is slower than the other.

    python bench/before_after.py OTHER_CHECKOUT [--rounds N] [--only train forward tune serve] [--models ...]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import RESULTS, environment, median, median_ratio, write_json

HERE = Path(__file__).resolve().parents[1]
BASE = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
    "head_dim": 32, "max_position_embeddings": 1024,
}  # fmt: skip
DATA = {"sources": ["primer"], "vocab_size": 2048, "row_length": 256}
EXPERTS = {"num_experts": 16, "num_experts_per_tok": 2, "norm_topk_prob": True, "moe_intermediate_size": 512}
MODELS: dict[str, dict[str, Any]] = {
    "dense": {"model_type": "qwen3", "intermediate_size": 1024},
    "moe": {"model_type": "qwen3_moe"} | EXPERTS,
    "llama4": {
        "model_type": "llama4_text", "num_local_experts": 16, "num_experts_per_tok": 1,
        "intermediate_size": 512, "intermediate_size_mlp": 1024, "attention_chunk_size": 128,
    },
}  # fmt: skip
Figures = dict[str, float]


@dataclass(frozen=True)
class Side:
    """One checkout, the core it runs on, and the models to measure."""

    tree: Path
    core: int
    models: tuple[str, ...]
    dtypes: tuple[str, ...]

    def command(self, *words: str) -> list[str]:
        """Python with these words on this side's core."""
        return ["taskset", "-c", str(self.core), sys.executable, *words]


def run(side: Side, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of one checkout, one thread."""
    command = side.command("-m", "coterie.cli.main", *words)
    done = subprocess.run(command, env=environ(side.tree), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side.tree}: coterie {' '.join(words)} failed: {done.stderr.strip()[-400:]}")
    return done


def environ(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def seconds_per_step(metrics: Path) -> float:
    """Median over the steps of a run, the first two left out."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    seconds = [record["seconds"] for record in records if record["kind"] == "train"][2:]
    return statistics.median(b - a for a, b in pairwise(seconds))


def train(side: Side, work: Path, data: Path) -> Figures:
    """Seconds per step of 2,048 tokens."""
    figures = {}
    for name in side.models:
        model = MODELS[name]
        for dtype in side.dtypes:
            out = work / f"{name}-{dtype}"
            config = {
                "model": BASE | model, "data": DATA,
                "data_dir": str(data), "steps": 9, "batch_rows": 8, "dtype": dtype, "threads": 1,
                "out": str(out),
            }  # fmt: skip
            file = work / f"{name}-{dtype}.json"
            file.write_text(json.dumps(config))
            run(side, "train", str(file))
            figures[f"train step, {name}, {dtype}"] = seconds_per_step(out / "metrics.jsonl")
    return figures


def forward(side: Side, work: Path, data: Path) -> Figures:
    """Processor seconds of a prompt of 512 tokens and of 64 greedy tokens."""
    figures: Figures = {}
    for name in side.models:
        for dtype in side.dtypes:
            command = side.command(__file__, "--worker", str(data.parent / f"model-{name}"), dtype)
            done = subprocess.run(command, env=environ(side.tree), capture_output=True, text=True, check=True)
            prompt, decode = json.loads(done.stdout.splitlines()[-1])
            figures |= {f"prompt, {name}, {dtype}": prompt, f"decode, {name}, {dtype}": decode}
    return figures


def worker(directory: str, dtype: str) -> None:
    """Runs inside one checkout."""
    import torch

    import coterie

    torch.set_num_threads(1)
    model = coterie.load(directory, dtype=dtype, device="cpu")
    draw = torch.Generator().manual_seed(0)
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(4):
        ids = torch.randint(1, 2000, (512,), generator=draw).tolist()
        begun = time.process_time()
        model.logits(ids)
        found[0].append(time.process_time() - begun)
        begun = time.process_time()
        model.generate(ids[:16], max_tokens=64, temperature=0.0, stop_ids=())
        found[1].append(time.process_time() - begun)
    print(json.dumps([statistics.median(values[1:]) for values in found]))


def tune(side: Side, work: Path, data: Path) -> Figures:
    """Seconds per step of LoRA on attention and experts."""
    figures = {}
    for name in (name for name in side.models if name != "llama4"):
        out = work / f"tune-{name}"
        model = str(data.parent / f"model-{name}")
        settings = ("--steps", "8", "dtype=float32", "threads=1", "row_length=512", "batch_rows=4")
        run(side, "tune", model, "starter", "-o", str(out), *settings)
        figures[f"LoRA step, {name}"] = seconds_per_step(out / "metrics.jsonl")
    return figures


def serve(side: Side, work: Path, data: Path) -> Figures:
    """Seconds per token of one and of eight clients."""
    model = str(data.parent / "model-moe")
    command = [
        sys.executable,
        "-m",
        "coterie.cli.main",
        "serve",
        model,
        "--port",
        "0",
        "--log-requests",
        "off",
    ]
    with subprocess.Popen(
        command, env=environ(side.tree), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        try:
            port = _port(server)
            figures = {}
            for clients in (1, 8):
                _ask(port, 0)
                begun = time.perf_counter()
                with ThreadPoolExecutor(clients) as pool:
                    tokens = sum(pool.map(lambda seed: _ask(port, seed), range(1, clients * 3 + 1)))
                figures[f"serve, {clients} clients"] = (time.perf_counter() - begun) / tokens
        finally:
            server.terminate()
            server.communicate()
    return figures


def _port(server: subprocess.Popen[bytes]) -> int:
    import re

    import psutil

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        for connection in psutil.Process(server.pid).net_connections():
            if connection.status == "LISTEN":
                return int(connection.laddr.port)
        time.sleep(0.2)
    said = (server.stderr.read() if server.stderr else b"").decode()
    raise SystemExit(f"the server did not start: {re.sub(r'[^ -~]', ' ', said)[-400:]}")


def _ask(port: int, seed: int) -> int:
    body = {
        "model": "x", "prompt": [seed + 5, *range(20, 60)], "max_tokens": 64, "temperature": 1, "seed": seed,
        "logit_bias": {"0": -100},
    }  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("GET", "/v1/models")
    body["model"] = json.loads(connection.getresponse().read())["data"][0]["id"]
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200:
        raise SystemExit(f"the server answered {response.status}: {answer}")
    return int(answer["usage"]["completion_tokens"])


def prepare(side: Side, root: Path) -> Path:
    """Data and models that both sides use, made by one of them."""
    data = root / "data"
    for name in side.models:
        config = {
            "model": BASE | MODELS[name], "data": DATA,
            "data_dir": str(data), "steps": 3, "batch_rows": 8, "threads": 2,
            "out": str(root / f"made-{name}"),
        }  # fmt: skip
        file = root / f"{name}.json"
        file.write_text(json.dumps(config))
        run(side, "train", str(file))
        os.symlink(root / f"made-{name}" / "model", root / f"model-{name}")
    return data


PARTS = {"train": train, "forward": forward, "tune": tune, "serve": serve}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--worker", nargs=2, metavar=("DIRECTORY", "DTYPE"))
    parser.add_argument("--out", type=Path, default=RESULTS / "before_after.json")
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
        return
    if options.other is None or not (options.other / "src" / "coterie").is_dir():
        raise SystemExit("before_after.py: give the root of another checkout (git worktree add DIR COMMIT)")
    trees = {"before": options.other.resolve(), "after": HERE}
    chosen = tuple(options.models), tuple(options.dtypes)
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Side(trees["before"], 0, *chosen), Path(folder))
        for number in range(options.rounds):
            cores = (number % 2, 1 - number % 2)
            sides = [Side(tree, core, *chosen) for tree, core in zip(trees.values(), cores, strict=True)]
            for part in options.only:
                with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(2) as pool:
                    folders = [Path(work, name) for name in trees]
                    for place in folders:
                        place.mkdir()
                    both = pool.map(PARTS[part], sides, folders, [data, data])
                    for name, figures in zip(trees, both, strict=True):
                        for figure, value in figures.items():
                            found.setdefault(figure, {}).setdefault(name, []).append(value)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    table = {
        figure: {"ratio": median_ratio(sides["after"], sides["before"])}
        | {side: median(values) for side, values in sides.items()}
        | {"rounds": sides}
        for figure, sides in found.items()
    }
    for figure, row in table.items():
        print(
            f"{figure:<32} {row['ratio']:.3f}  ({row['after'] * 1e3:.1f} against {row['before'] * 1e3:.1f})"
        )
    commits = {
        side: subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=tree, capture_output=True, text=True, check=False
        ).stdout.strip()
        for side, tree in trees.items()
    }
    record = {"environment": environment() | {"commits": commits}, "figures": table}
    command = record["environment"]["command"]
    record["environment"]["command"] = command.replace(str(options.other), "OTHER_CHECKOUT")
    write_json(options.out, record)


if __name__ == "__main__":
    main()
