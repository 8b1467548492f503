"""Tuning the experts that a task uses against tuning all of them, and against as many drawn at random.

    python bench/subset.py [--seeds 0 1 2]

A model is pretrained on eight planted domains (each with separate tokens and a table of which token follows
which two); then one domain gets a new table, and the experts alone learn it: all, the quarter that
`coterie select` finds on the domain's text, or a random quarter. Accuracy is of the table's tokens in unseen
rows, in percent. Memory is the process's peak over one step of a larger model, a process for each way. Writes
bench/results/subset.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import RESULTS, environment, write_json
from coterie.adapters.patch import attach_subset, save_patch
from coterie.checkpoints.directory import save_model
from coterie.config import ExpertSelection, ModelConfig
from coterie.config.run import OptimiserConfig, ScheduleConfig
from coterie.data.heldout import HeldoutDocument
from coterie.data.rows import Row
from coterie.evaluate.routing.profile import profile, select
from coterie.families import config_from_hf
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from coterie.train import CrossEntropy, Trainer, build_optimiser, multiplier

DOMAINS, TOKENS, ROW = 8, 16, 64
NOISE = 0.1


class Planted:
    """Rows of one domain: `x[t+1] = table[x[t-1], x[t]]`, or with probability `NOISE` a random token."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.tables = draw.integers(0, TOKENS, (DOMAINS, TOKENS, TOKENS))

    def row(self, domain: int, sample: int) -> Row:
        draw = np.random.default_rng((domain, sample))
        x = list(draw.integers(0, TOKENS, 2))
        planted = [0.0]
        for _ in range(ROW - 1):
            rule = draw.random() >= NOISE
            x.append(int(self.tables[domain, x[-2], x[-1]]) if rule else int(draw.integers(0, TOKENS)))
            planted.append(float(rule))
        ids = np.array(x, dtype=np.int32) + 1 + domain * TOKENS
        return Row(ids[:-1], ids[1:], np.array(planted, dtype=np.float32), (ROW,))


def model_config(width: int = 96, layers: int = 3, experts: int = 16, expert_width: int = 96) -> ModelConfig:
    return config_from_hf(
        {
            "model_type": "qwen3_moe",
            "vocab_size": 1 + DOMAINS * TOKENS,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 256,
            "num_experts": experts,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "moe_intermediate_size": expert_width,
            "router_aux_loss_coef": 0.01,
            "tie_word_embeddings": True,
        }
    )


def train(model: Transformer, row: Callable[[int], Row], steps: int, lr: float, seed: int) -> None:
    def batches(start: int) -> Iterator[list[Row]]:
        while True:
            yield [row(sample) for sample in range(start, start + 16)]
            start += 16

    schedule = ScheduleConfig(warmup_steps=20, decay_fraction=0.3)
    optimiser = build_optimiser(model, OptimiserConfig(lr=lr, weight_decay=0.0))
    trainer = Trainer(
        model,
        batches,
        CrossEntropy(),
        optimiser,
        lambda s: multiplier(s, steps, schedule),
        steps=steps,
        lr=lr,
        seed=seed,
    )
    trainer.run()


@torch.no_grad()
def accuracy(model: Transformer, planted: Planted, domain: int) -> float:
    """Percent of the table's tokens that are the most likely ones, in rows that training never saw."""
    right = total = 0.0
    for sample in range(10_000_000, 10_000_100):
        row = planted.row(domain, sample)
        ids_T = torch.from_numpy(row.ids.astype(np.int64))
        best_T = model.logits(model(ids_T, ForwardContext.packed([len(ids_T)]))).argmax(-1).numpy()
        right += float(((best_T == row.targets) * row.weights).sum())
        total += float(row.weights.sum())
    return 100 * right / total


def pretrained(seed: int, steps: int) -> tuple[Transformer, Planted]:
    torch.manual_seed(seed)
    planted = Planted(seed)
    model = Transformer(model_config())
    model.initialise(seed)
    train(model, lambda sample: planted.row(sample % DOMAINS, sample), steps, 3e-3, seed)
    return model, planted


def choices(model: Transformer, planted: Planted, seed: int) -> dict[str, ExpertSelection]:
    texts = [HeldoutDocument("task", planted.row(0, s).ids, 1) for s in range(5_000_000, 5_000_200)]
    found = profile(model, texts)
    return {
        "all": select(found, "hot", top=1.0),
        "selected": select(found, "hot", top=0.25),
        "random": select(found, "random", top=0.25, seed=seed),
    }


def one_seed(seed: int, pretrain_steps: int, steps: int) -> dict[str, Any]:
    base, planted = pretrained(seed, pretrain_steps)
    record: dict[str, Any] = {"seed": seed, "pretrained": accuracy(base, planted, 0)}
    chosen = choices(base, planted, seed)
    draw = np.random.default_rng(seed + 1000)
    planted.tables[0] = draw.integers(0, TOKENS, (TOKENS, TOKENS))
    record["before"] = accuracy(base, planted, 0)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "base", base)
        whole = sum(file.stat().st_size for file in (Path(folder) / "base").iterdir())
        for name, selection in chosen.items():
            model = copy.deepcopy(base)
            attach_subset(model, selection)
            train(model, lambda sample: planted.row(0, sample), steps, 3e-3, seed)
            save_patch(Path(folder) / name, model, "base")
            record[name] = {
                "accuracy": accuracy(model, planted, 0),
                "other_domain": accuracy(model, planted, 1),
                "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
                "patch_bytes": sum(file.stat().st_size for file in (Path(folder) / name).iterdir()),
            }
            print(seed, name, record[name], file=sys.stderr)
    record["checkpoint_bytes"] = whole
    return record


def peak_of_a_step(share: float) -> int:
    """Peak bytes of this process over two steps in which this share of the experts is trained."""
    model = Transformer(model_config(width=512, layers=4, experts=32, expert_width=512))
    model.initialise()
    count = int(32 * share)
    attach_subset(model, ExpertSelection(experts={layer: tuple(range(count)) for layer in range(4)}))
    planted = Planted(0)
    train(model, lambda sample: planted.row(0, sample), 2, 1e-3, 0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pretrain-steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--peak", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak is not None:
        print(json.dumps(peak_of_a_step(options.peak)))
        return
    peaks = {
        name: json.loads(
            subprocess.run(
                [sys.executable, __file__, "--peak", str(share)], capture_output=True, check=True
            ).stdout
        )
        for name, share in (("all", 1.0), ("selected", 0.25))
    }
    runs = [one_seed(seed, options.pretrain_steps, options.steps) for seed in options.seeds]
    means = {
        name: float(np.mean([run[name]["accuracy"] for run in runs]))
        for name in ("all", "selected", "random")
    }
    write_json(
        RESULTS / "subset.json",
        {
            "environment": environment(),
            "mean_accuracy": means,
            "points_below_all": {name: means["all"] - means[name] for name in ("selected", "random")},
            "peak_bytes_of_a_step": peaks,
            "runs": runs,
        },
    )
    print(json.dumps({"mean_accuracy": means, "peak_bytes_of_a_step": peaks}))


if __name__ == "__main__":
    main()
