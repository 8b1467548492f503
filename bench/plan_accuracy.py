"""Predicted against measured: peak memory and time of a tuning step, on six configurations.

    python bench/plan_accuracy.py

Each configuration runs in a separate process: the model is built, a few steps are taken, and the peak of the
resident memory and the median of the steps after the first are read. Time is the process's own processor
time, which other work on the machine does not enter. The prediction of memory uses the config alone, that of
time the five-second measurement. Configurations already in bench/results/plan.json are not measured again
(unless --anew); predictions of memory are always new.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from statistics import median
from typing import Any

from common import RESULTS, environment, write_json
from coterie.config import ModelConfig
from coterie.families import config_from_hf
from coterie.machine.glibc import keep_freed_memory
from coterie.plan.tuning import TuneSettings, plan_tune
from coterie.recipes.step_time import step_seconds, step_trainer

RECORD = RESULTS / "plan.json"
COMMON = {
    "vocab_size": 8192,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
MOE = COMMON | {"model_type": "qwen3_moe", "hidden_size": 512, "head_dim": 64, "num_hidden_layers": 6}
MOE |= {"num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 384, "norm_topk_prob": True}
MIXTRAL = COMMON | {"model_type": "mixtral", "hidden_size": 512, "num_hidden_layers": 4, "head_dim": 64}
MIXTRAL |= {
    "intermediate_size": 1024,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
}
DENSE = COMMON | {
    "model_type": "qwen3",
    "hidden_size": 768,
    "num_hidden_layers": 8,
    "intermediate_size": 2048,
}
DENSE |= {"head_dim": 96}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "moe-full": (MOE, {"method": "full", "row_length": 512, "batch_rows": 2}),
    "moe-lora": (MOE, {"method": "lora", "row_length": 512, "batch_rows": 4}),
    "moe-esft": (MOE, {"method": "esft", "experts": 0.25, "row_length": 512, "batch_rows": 4}),
    "mixtral-lora": (MIXTRAL, {"method": "lora", "row_length": 1024, "batch_rows": 4}),
    "dense-full": (DENSE, {"method": "full", "row_length": 512, "batch_rows": 2}),
    "dense-lora": (DENSE, {"method": "lora", "row_length": 512, "batch_rows": 4}),
}
# Shapes that no constant of the plan was fitted to.
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "other-moe-lora": (
        MOE | {"hidden_size": 640, "num_hidden_layers": 4, "num_experts": 16, "num_experts_per_tok": 2},
        {"method": "lora", "rank": 8, "row_length": 512, "batch_rows": 4},
    ),
    "other-dense-full": (
        DENSE | {"model_type": "llama", "hidden_size": 512, "head_dim": 64, "num_hidden_layers": 10},
        {"method": "full", "row_length": 1024, "batch_rows": 1},
    ),
}


def parts(name: str) -> tuple[ModelConfig, TuneSettings]:
    shape, settings = (CASES | OTHERS)[name]
    return config_from_hf(shape), TuneSettings(**settings)


def child(name: str, what: str) -> dict[str, float]:
    config, settings = parts(name)
    keep_freed_memory()
    if what == "predict":
        return {"step_seconds": step_seconds(config, settings, clock=time.process_time)}
    trainer = step_trainer(config, settings)
    times = []
    for _ in range(5):
        at = time.process_time()
        trainer.step()
        times.append(time.process_time() - at)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"step_seconds": median(times[1:]), "peak_bytes": peak}


def run(name: str, what: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", name, "--what", what]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--anew", action="store_true", help="measure again what is in the record")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--what", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(child(options.case, options.what)))
        return
    before = json.loads(RECORD.read_text())["cases"] if RECORD.is_file() and not options.anew else {}
    results = {}
    for name in CASES | OTHERS:
        config, settings = parts(name)
        plan = plan_tune(config, settings)
        if name in before:
            measured = {key: before[name][key]["measured"] for key in ("peak_bytes", "step_seconds")}
            predicted = before[name]["step_seconds"]["predicted"]
        else:
            measured = run(name, "measure")
            predicted = run(name, "predict")["step_seconds"]
        results[name] = {
            "settings": asdict(settings),
            "parameters": plan.parameters,
            "predicted_parts": plan.parts,
            "peak_bytes": {"predicted": plan.phases["step"], "measured": measured["peak_bytes"]},
            "memory_error": plan.phases["step"] / measured["peak_bytes"] - 1,
            "step_seconds": {"predicted": predicted, "measured": measured["step_seconds"]},
            "time_error": predicted / measured["step_seconds"] - 1,
        }
        print(
            name,
            {key: round(results[name][key], 3) for key in ("memory_error", "time_error")},
            file=sys.stderr,
        )
    record = {
        "environment": environment(),
        "worst_memory_error": max(abs(results[name]["memory_error"]) for name in CASES),
        "worst_time_error": max(abs(results[name]["time_error"]) for name in CASES),
        "cases": results,
    }
    write_json(RECORD, record)


if __name__ == "__main__":
    main()
