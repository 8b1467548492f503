"""What a learning rate does to a given model: bits per byte of new and of other text, before and after.

    python bench/continued_rates.py MODEL TEXT --rates 1e-3 2e-4 --steps 40 --seeds 0 1

Prints one JSON object per run: by step, [new text, other text (the embedded corpus)]. The warm-up is that of
`coterie train` from a given model, the decay a cosine to a tenth.
"""

from __future__ import annotations

import argparse
import json
import tempfile

import torch

from coterie.checkpoints.directory import load_model
from coterie.config.data import DataConfig
from coterie.config.run import CONTINUED_WARMUP, OptimiserConfig, ScheduleConfig
from coterie.data.build import Prepared, prepare
from coterie.data.heldout import retention_documents, spread
from coterie.evaluate.bits import bits_per_byte
from coterie.evaluate.tuning import score_retention
from coterie.nn.transformer import Transformer
from coterie.recipes.heldout import heldout_bits
from coterie.recipes.run import build_trainer
from coterie.train.objective import CrossEntropy


def measure(model: Transformer, prepared: Prepared, tokens: int) -> list[float]:
    """Bits per byte of about `tokens` tokens of held-out text, and of the embedded corpus."""
    tokenizer = prepared.tokenizer
    model.eval()
    other = score_retention(
        model, tokenizer.document_start[0], retention_documents("primer", tokenizer, tokens)
    )
    new = heldout_bits(model, prepared, spread(prepared.heldout_documents(), tokens))
    return [round(value, 4) for value in (new, bits_per_byte(other))]


def run(options: argparse.Namespace, prepared: Prepared, rate: float, seed: int) -> dict[str, object]:
    """Train the model with one rate and one order of the data."""
    model = load_model(options.model, "float32", compute_dtype=torch.float32).model
    found: dict[str, object] = {"rate": rate, "seed": seed, "0": measure(model, prepared, options.tokens)}
    trainer = build_trainer(
        model,
        prepared.train_rows(),
        CrossEntropy(),
        OptimiserConfig(lr=rate),
        ScheduleConfig(kind="cosine", warmup_fraction=CONTINUED_WARMUP, final_ratio=0.1),
        steps=options.steps,
        batch_rows=options.rows,
        seed=seed,
    )
    for step in range(1, options.steps + 1):
        trainer.step()
        if step in {4, options.steps // 2, options.steps}:
            found[str(step)] = measure(model, prepared, options.tokens)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--rates", type=float, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--row-length", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=12_000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = {"sources": [options.text], "tokenizer": options.model, "row_length": options.row_length}
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(DataConfig.from_dict(data | {"heldout_fraction": 0.1}), folder)
        for seed in options.seeds:
            for rate in options.rates:
                print(json.dumps(run(options, prepared, rate, seed)), flush=True)


if __name__ == "__main__":
    main()
