"""Does a teacher help? Students that are distilled against the same students by cross-entropy alone.

    python bench/distill.py [--students dense moe] [--seeds 0 1 2] [--arms default gated full]

The teacher has three layers and has read 1.2 million tokens of the primer. A student of two layers and half
the width, dense or a mixture, reads 0.3 MB of it once, 163,840 tokens. The arms differ in the settings of
`coterie train distill`: `default` has none, `gated` another weighting, `full` keeps whole distributions. All
arms of a student and seed, and its control, have the same start and the same rows in the same order.

The test was fixed before the runs: the 95 % interval of the difference to the control in bits per byte,
paired over held-out documents that neither teacher nor student has seen, lies below 0. Each result goes into
bench/results/distill.json as it comes; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common import RESULTS, environment, write_json
from coterie.checkpoints.directory import load_model
from coterie.config.distill import DistillConfig
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared, prepare
from coterie.data.heldout import HeldoutDocument
from coterie.evaluate.bits import DocumentScore, bits_per_byte
from coterie.evaluate.tuning import change
from coterie.plan.counts import count_parameters
from coterie.recipes.distill import run_distill
from coterie.recipes.heldout import EVAL_TOKENS, evaluation_documents, heldout_scores
from coterie.recipes.pretrain import pretrain

STEPS, BATCH_ROWS, ROW_LENGTH = 160, 8, 128
RUN: dict[str, Any] = {"dtype": "float32", "threads": 1, "save_every": 0, "eval_every": 0}
SHAPE = {
    "model_type": "qwen3", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 24, "intermediate_size": 128, "max_position_embeddings": ROW_LENGTH,
    "tie_word_embeddings": True,
}  # fmt: skip
TEACHER = SHAPE | {
    "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 256,
}  # fmt: skip
EXPERTS = {
    "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
    "norm_topk_prob": True, "router_aux_loss_coef": 0.01,
}  # fmt: skip
STUDENTS = {"dense": SHAPE, "moe": SHAPE | EXPERTS}
ARMS: dict[str, dict[str, Any]] = {
    "default": {},
    "gated": {"weighting": {"kind": "gated"}},
    "full": {"targets": {"kind": "full"}},
}


def make_teacher(folder: Path) -> tuple[str, Prepared]:
    """The teacher's directory, and the text that it was trained and held out on."""
    config = TrainConfig.from_dict(
        RUN | {
            "model": TEACHER,
            "data": {"sources": ["primer"], "vocab_size": 512, "row_length": ROW_LENGTH},
            "steps": 600,
            "batch_rows": 16,
            "optimiser": {"lr": 0.004},
            "out": str(folder),
        }
    )  # fmt: skip
    if not (folder / "model").is_dir():
        pretrain(config)
    return str(folder / "model"), prepare(config.data, folder / "data")


class Judge:
    """Held-out documents of the whole text, of which no model has seen any."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.documents: Sequence[HeldoutDocument] = evaluation_documents(
            prepared, EVAL_TOKENS, "final", cut=True
        )

    def scores(self, model: Path) -> list[DocumentScore]:
        """The scores of a model's directory."""
        return heldout_scores(load_model(model, "float32").model.eval(), self.prepared, self.documents)


def run_arm(
    folder: Path, judge: Judge, teacher: str, student: str, arm: str, seed: int, control: Path | None
) -> tuple[dict[str, Any], Path]:
    """Distil and compare with the control, which is trained where none is given: the arm, the control."""
    settings = RUN | {
        "student": STUDENTS[student],
        "teacher": teacher,
        "data": {"sources": [{"path": "primer", "max_bytes": 300_000}], "row_length": ROW_LENGTH},
        "steps": STEPS,
        "batch_rows": BATCH_ROWS,
        "optimiser": {"lr": 0.003},
        "seed": seed,
        "out": str(folder / f"{student}-{seed}" / arm),
        "data_dir": str(folder / "data"),
        "cache": str(folder / f"targets-{'full' if arm == 'full' else 'topk'}"),
        "control": control is None,
    }
    record = run_distill(DistillConfig.from_dict(settings | ARMS[arm])).record
    assert record is not None
    control = control or max((Path(settings["out"]) / "control" / "checkpoints").glob("step-*"))
    found = change(judge.scores(control), judge.scores(Path(record.path)))
    counts = count_parameters(load_model(record.path).model.config)
    return {
        "passed": found.change.high < 0,
        "change": found.to_dict(),
        "share": record.last.distil_share,
        "tokens": record.tokens,
        "parameters": counts.total,
    }, control


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--results", type=Path, default=RESULTS / "distill.json")
    parser.add_argument("--out", type=Path, default=Path("runs") / "distill-bench")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = json.loads(options.results.read_text()) if options.results.is_file() else {"runs": {}}
    teacher, prepared = make_teacher(options.out / "teacher")
    judge = Judge(prepared)
    record["teacher"] = {
        "bits_per_byte": bits_per_byte(judge.scores(Path(teacher))),
        "parameters": count_parameters(load_model(teacher).model.config).total,
        "documents": len(judge.documents),
    }
    for arm in options.arms:
        for seed in options.seeds:
            for student in options.students:
                run = record["runs"].setdefault(f"{student}-{seed}", {})
                if arm in run:
                    continue
                control = Path(run["control"]) if "control" in run else None
                run[arm], path = run_arm(options.out, judge, teacher, student, arm, seed, control)
                run["control"] = str(path)
                print(f"{student}-{seed} {arm}: {run[arm]}", flush=True)
                write_json(options.results, record | {"environment": environment()})
    write_json(options.results, record | {"environment": environment()})


if __name__ == "__main__":
    main()
