"""A dense model made of a mixture of experts against the same dense model trained alike.

    python bench/densify.py [--steps 500] [--heal 150]

A small mixture is trained on the embedded corpus; `densify` makes a dense model of its active size from it
and heals it by distillation. It is compared with the same dense shape trained from nothing, once for the
healing's steps and once for all of them, with rows in the same order and the same learning rate. The figures
are bits per byte on held-out text. Writes bench/results/densify.json.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import RESULTS, environment, write_json
from coterie.config.data import DataConfig
from coterie.config.run import OptimiserConfig, ScheduleConfig
from coterie.data.build import Prepared, prepare
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from coterie.plan.counts import count_parameters
from coterie.recipes.heldout import evaluation_documents, heldout_bits
from coterie.recipes.run import build_trainer
from coterie.recipes.surgery_healing import Healing, heal
from coterie.surgery.densify import densify
from coterie.train import CrossEntropy

ROW, ROWS = 256, 8


def shape(vocab_size: int) -> dict[str, Any]:
    return {
        "model_type": "qwen3_moe",
        "vocab_size": vocab_size,
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "max_position_embeddings": 512,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "moe_intermediate_size": 96,
        "router_aux_loss_coef": 0.01,
        "tie_word_embeddings": True,
    }


def train(model: Transformer, prepared: Prepared, steps: int, lr: float) -> float:
    """Seconds of training."""
    schedule = ScheduleConfig(kind="cosine", warmup_fraction=0.05, final_ratio=0.1)
    rows, optimiser = prepared.train_rows(), OptimiserConfig(lr=lr)
    trainer = build_trainer(model, rows, CrossEntropy(), optimiser, schedule, steps=steps, batch_rows=ROWS)
    trainer.run()
    model.eval()
    return trainer.seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--heal", type=int, default=150)
    parser.add_argument("--lr", type=float, default=2e-3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = DataConfig(sources=["primer"], vocab_size=1024, row_length=ROW, max_bytes=6_000_000)
        prepared = prepare(data, Path(folder) / "data")
        documents = evaluation_documents(prepared, 40_000)
        record: dict[str, Any] = {
            "environment": environment(),
            "steps": options.steps,
            "heal_steps": options.heal,
        }

        def note(name: str, model: Transformer, seconds: float) -> None:
            bits = heldout_bits(model, prepared, documents)
            counts = count_parameters(model.config)
            record[name] = {"bits_per_byte": bits, "seconds": seconds, "parameters": counts.total}
            record[name]["active"] = counts.active_core
            print(name, record[name], file=sys.stderr)

        moe = Transformer(config_from_hf(shape(prepared.tokenizer.vocab_size)))
        moe.initialise(0)
        note("moe", moe, train(moe, prepared, options.steps, options.lr))
        rows = prepared.train_rows()
        looked_at = [np.asarray(rows[i].ids).tolist() for i in range(0, len(rows), max(1, len(rows) // 80))][
            :80
        ]
        start = time.perf_counter()
        dense = densify(moe, looked_at)
        note("densified", dense, time.perf_counter() - start)
        stream = [rows[i].ids for i in range(options.steps * ROWS, (options.steps + options.heal) * ROWS + 1)]
        from_nothing = Transformer(dense.config)
        for name, steps in (
            ("dense_heal_steps", options.heal),
            ("dense_all_steps", options.steps + options.heal),
        ):
            from_nothing.initialise(0)
            note(name, from_nothing, train(from_nothing.train(), prepared, steps, options.lr))
        for name, teacher in (("healed_by_text", None), ("healed_by_distillation", moe)):
            model = copy.deepcopy(dense)
            start = time.perf_counter()
            heal(
                model, teacher, stream, Healing(options.heal, options.lr / 2, row_length=ROW, batch_rows=ROWS)
            )
            note(name, model, time.perf_counter() - start)
    write_json(RESULTS / "densify.json", record)


if __name__ == "__main__":
    main()
