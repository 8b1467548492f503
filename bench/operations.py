"""What the big operations cost, for two checkouts of coterie: processor time and peak memory of a command.

A random model of SmolLM2-135M's shape in float32 is upcycled to four experts, made dense again, pruned,
converted and profiled, and an adapter is merged into it. Both checkouts run the same commands at the same
time, each on its own core with one thread. Memory is the most that the process held (its peak resident set),
Python and libraries included. A ratio above 1 means that this checkout needs less than the other.

    python bench/operations.py OTHER_CHECKOUT [--layers 8] [--only NAME ...]

Operations that are not chosen keep their record.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import RESULTS, environment, write_json

HERE = Path(__file__).resolve().parents[1]
Words = list[str]
SHAPE = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}
# Name -> the command; DENSE, COPIES, NOISY and ADAPTER stand for what `prepare` makes, OUT for the result.
OPERATIONS: dict[str, Words] = {
    "upcycle": ["surgery", "upcycle", "DENSE", "-o", "OUT", "--experts", "4"],
    "densify copies": ["surgery", "densify", "COPIES", "-o", "OUT"],
    "densify": ["surgery", "densify", "NOISY", "-o", "OUT"],
    "prune": ["surgery", "prune", "NOISY", "-o", "OUT", "--keep", "0.5"],
    "merge": ["merge", "DENSE", "ADAPTER", "-o", "OUT"],
    "convert": ["convert", "COPIES", "--to", "hf", "-o", "OUT", "--dtype", "bfloat16"],
    "profile": ["profile", "COPIES", "primer", "-o", "OUT", "--max-tokens", "500"],
}


def prepare(folder: Path, layers: int) -> None:
    """The models that both sides operate on, made by this checkout."""
    from coterie.adapters.attach import attach
    from coterie.adapters.files import save_adapter
    from coterie.checkpoints.directory import load_model, save_model
    from coterie.config import AdapterConfig
    from coterie.data.sources import Reading, read_sources
    from coterie.families import config_from_hf
    from coterie.nn.transformer import Transformer
    from coterie.surgery.upcycle import upcycle
    from coterie.text.tokenizer import Tokenizer

    texts = [document.text for document in read_sources(["primer"], Reading(max_bytes=400_000))]
    tokenizer = Tokenizer.train(texts, vocab_size=4096)
    model = Transformer(config_from_hf(SHAPE | {"num_hidden_layers": layers}))
    model.initialise(0)
    save_model(folder / "DENSE", model, tokenizer)
    for name, variation in (("COPIES", "copy"), ("NOISY", "noise")):
        save_model(folder / name, upcycle(model, 4, variation=variation), tokenizer)  # type: ignore[arg-type]
    model = load_model(folder / "DENSE").model
    attach(model, AdapterConfig.from_dict({"rank": 8, "train": {"attention": "lora", "dense": "lora"}}))
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            parameter.data.normal_(std=0.02)
    save_adapter(folder / "ADAPTER", model, folder / "DENSE")


def measured(tree: Path, core: int, words: Words) -> dict[str, float]:
    """Processor seconds, peak bytes and wall seconds of one command in a child process."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "coterie.cli.main", *words]
    environ = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            said.seek(0)
            raise SystemExit(f"{tree}: coterie {' '.join(words)} failed: {said.read().decode()[-600:]}")
    seconds = time.perf_counter() - begun
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "wall_seconds": seconds,
    }


def size_of(path: Path) -> int:
    """Bytes of a directory's weights; 0 for a file."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="the root of another checkout (git worktree add DIR COMMIT)")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=list(OPERATIONS), default=list(OPERATIONS))
    parser.add_argument("--out", type=Path, default=RESULTS / "operations.json")
    options = parser.parse_args()
    trees = {"before": options.other.resolve(), "after": HERE}
    commits = {side: commit_of(tree) for side, tree in trees.items()}
    known = json.loads(options.out.read_text())["operations"] if options.out.is_file() else {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.layers)
        for number, operation in enumerate(options.only):
            cores = (number % 2, 1 - number % 2)
            outs = [folder / side for side in trees]
            jobs = [
                [
                    str(folder / word) if word.isupper() and word != "OUT" else word
                    for word in OPERATIONS[operation]
                ]
                for _ in trees
            ]
            jobs = [
                [str(out) if word == "OUT" else word for word in job]
                for job, out in zip(jobs, outs, strict=True)
            ]
            with ThreadPoolExecutor(2) as pool:
                both = list(pool.map(measured, trees.values(), cores, jobs))
            row: dict[str, Any] = dict(zip(trees, both, strict=True))
            row["cpu_ratio"] = both[0]["cpu_seconds"] / both[1]["cpu_seconds"]
            row["peak_ratio"] = both[0]["peak_bytes"] / both[1]["peak_bytes"]
            row |= {"layers": options.layers, "commits": commits}
            row["result_bytes"] = size_of(outs[1])
            found[operation] = row
            print(operation, row, file=sys.stderr, flush=True)
            for out in outs:
                subprocess.run(["rm", "-rf", str(out)], check=True)
    about = environment()
    about["command"] = about["command"].replace(str(options.other), "OTHER_CHECKOUT")
    rows = {name: (known | found)[name] for name in OPERATIONS if name in known | found}
    write_json(options.out, {"environment": about, "operations": rows})


def commit_of(tree: Path) -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=tree, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main()
