"""Reinforcement: rollouts and training of one step, against GRPOTrainer of trl on transformers.

The same models, prompts, number of replies and reward, which is the share of small letters in a reply: cheap,
and different for nearly all. Both sample at temperature 1 without filters, in float32, and take one AdamW
step on all replies by Dr. GRPO's loss without a KL. The mixture has 8 experts of which a token uses 2; the
dense twin has as many active columns. `fresh` weights are random, so that nearly every reply has `TOKENS`
tokens; `tuned` ones saw worked and short replies, so that lengths differ as they do in a run.

Each contender runs in a separate process, one after the other in every round; the first step of a process is
not counted. Tokens are sampled ones, each of which is trained on once. trl must be installed, with datasets.

    python bench/rl.py [--quick] [--only NAME ...] [--rounds N] [--steps N] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch

from common import RESULTS, environment, median, median_ratio, write_json
from coterie.checkpoints.directory import save_model
from coterie.config.reinforce import ReinforceConfig
from coterie.families.registry import config_from_hf
from coterie.machine.processes import Processes
from coterie.nn.transformer import Transformer
from coterie.primer.base import Rng
from coterie.recipes.reinforce_parts import ReinforceParts
from coterie.recipes.tune import tune
from coterie.tasks import load_task
from coterie.tasks.problem import TaskFamily, TaskProblem, TaskVerdict
from coterie.tasks.rows import conversations
from coterie.text.tokenizer import Tokenizer
from shapes import shape

PROMPTS, GROUP, TOKENS, VOCABULARY, RATE = 16, 8, 64, 1024, 1e-5
SHAPE = shape(width=256, layers=4, heads=8, head_dim=32, vocabulary=VOCABULARY)
MODELS: dict[str, dict[str, Any]] = {
    "dense": {"model_type": "qwen3", "intermediate_size": 1024},
    "moe": {
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 512,
        "intermediate_size": 1024,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "router_aux_loss_coef": 0.0,
    },
}
CASES = [f"{model}-{state}" for model in MODELS for state in ("fresh", "tuned")]
CONTENDERS = [f"{case}/{name}" for case in CASES for name in ("coterie", "trl")]


def share_of_small_letters(reply: str) -> float:
    """The reward."""
    return sum(letter.islower() for letter in reply) / max(1, len(reply))


class SmallLetters(TaskFamily):
    """The prompts of parity with that reward."""

    name: ClassVar[str] = "small-letters"
    says: ClassVar[str] = "small letters"
    _prompts = load_task("parity")

    def draw(self, rng: Rng, level: int) -> TaskProblem:
        """A problem of parity."""
        return self._prompts.draw(rng, level)

    def judge(self, problem: TaskProblem, reply: str) -> TaskVerdict:
        """The share of small letters."""
        return TaskVerdict({"letters": share_of_small_letters(reply)})


def prepare(folder: Path) -> None:
    """A model of each shape with one tokenizer, fresh and tuned."""
    family = load_task("parity")
    texts = [family.problem(9, at).prompt + family.worked(family.problem(9, at)) for at in range(2000)]
    tokenizer = Tokenizer.train([*texts, "The quick brown fox jumps over the lazy dog. " * 50], VOCABULARY)
    for name, settings in MODELS.items():
        model = Transformer(config_from_hf(SHAPE | settings | {"vocab_size": tokenizer.vocab_size}))
        model.initialise(seed=0)
        save_model(folder / f"{name}-fresh", model, tokenizer)
        rows = folder / "rows.jsonl"
        with rows.open("w", encoding="utf-8") as file:
            for row in conversations(family, [9], 4000, worked_share=0.5):
                file.write(json.dumps(row) + "\n")
        result = tune(
            str(folder / f"{name}-fresh"), str(rows), out=str(folder / f"{name}-run"), method="full",
            steps=120, lr=1e-3, row_length=256, batch_rows=4, retention="none", eval=0.0, threads=1,
        )  # fmt: skip
        if result.path is None:
            raise SystemExit(f"{name}: tuning was stopped ({result.reason})")
        result.path.rename(folder / f"{name}-tuned")


def run_coterie(model: Path, steps: int, out: Path) -> tuple[list[float], list[float]]:
    """Seconds and sampled tokens of each step."""
    given = {
        "model": str(model), "task": "parity", "levels": "9", "out": str(out), "method": "full",
        "steps": steps, "prompts": PROMPTS, "group": GROUP, "max_tokens": TOKENS, "eval_problems": 4,
        "lr": RATE, "refills": 0, "least_groups": 1, "pass_at": {"problems": 0},
    }  # fmt: skip
    config = ReinforceConfig.from_dict(given, "bench")
    parts = ReinforceParts.build(config, SmallLetters(), [9], Processes())
    parts.trainer.callbacks = [parts.source]
    parts.source.on_start(parts.trainer)
    seconds, tokens = [], []
    for _ in range(steps):
        before, begun = parts.source.tokens_sampled, time.perf_counter()
        parts.trainer.step()
        seconds.append(time.perf_counter() - begun)
        tokens.append(float(parts.source.tokens_sampled - before))
    return seconds, tokens


def run_trl(model: Path, steps: int, out: Path) -> tuple[list[float], list[float]]:
    """Seconds and sampled tokens of each step."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    ends: list[float] = []
    tokens: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_train_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    def reward(completions: Sequence[Any], completion_ids: Sequence[Any], **_: Any) -> list[float]:
        tokens.append(float(sum(len(ids) for ids in completion_ids)))
        return [share_of_small_letters(messages[0]["content"]) for messages in completions]

    family = load_task("parity")
    prompts = [family.problem(9, at).prompt for at in range(PROMPTS * steps)]
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(out), use_cpu=True, bf16=False, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
            per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP, max_completion_length=TOKENS,
            max_steps=steps, learning_rate=RATE, lr_scheduler_type="constant", temperature=1.0, top_k=0,
            top_p=1.0, beta=0.0, loss_type="dr_grpo", scale_rewards="none", num_iterations=1,
            shuffle_dataset=False, seed=0,
        ),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": p}]} for p in prompts]),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )  # fmt: skip
    begun = time.perf_counter()
    trainer.train()
    # Replies are sampled before `on_step_begin`, so a step lasts from one of its events to the next.
    marks = [begun, *ends[1:]]
    return [after - before for before, after in pairwise(marks)], tokens


def measure(contender: str, folder: Path, steps: int) -> dict[str, Any]:
    """One process: its steps without the first."""
    case, name = contender.split("/")
    with tempfile.TemporaryDirectory() as out:
        run = run_coterie if name == "coterie" else run_trl
        seconds, tokens = run(folder / case, steps + 1, Path(out))
    kept = list(zip(seconds, tokens, strict=False))[1 : steps + 1]
    return {"seconds": [second for second, _ in kept], "tokens": [token for _, token in kept]}


def in_a_process(contender: str, folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """Run a contender by this file."""
    command = [
        sys.executable,
        __file__,
        "--measure",
        contender,
        "--folder",
        str(folder),
        "--steps",
        str(steps),
    ]
    environ = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    if done.returncode:
        raise SystemExit(f"{contender}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    """Measure and write `results/rl.json`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of one step, not recorded")
    parser.add_argument("--only", nargs="*", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder, given.steps)))
        return
    rounds, steps = (1, 1) if given.quick else (given.rounds, given.steps)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in given.only}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for turn in range(rounds):
            for name in given.only:
                found[name].append(in_a_process(name, Path(folder), steps, given.threads))
                speed = sum(found[name][-1]["tokens"]) / sum(found[name][-1]["seconds"])
                print(f"round {turn + 1} {name:16} {speed:8.0f} tokens/s", flush=True)
    speeds = {
        name: [sum(one["tokens"]) / sum(one["seconds"]) for one in runs] for name, runs in found.items()
    }
    rows = [
        {
            "case": case,
            "tokens_per_second": {name: median(speeds[f"{case}/{name}"]) for name in ("coterie", "trl")},
            "ratio": median_ratio(speeds[f"{case}/coterie"], speeds[f"{case}/trl"]),
            "tokens_per_step": {
                name: median([token for one in found[f"{case}/{name}"] for token in one["tokens"]])
                for name in ("coterie", "trl")
            },
        }
        for case in CASES
        if f"{case}/coterie" in speeds and f"{case}/trl" in speeds
    ]
    for row in rows:
        print(f"{row['case']}: {row['ratio']:.1f} times trl")
    if not given.quick:
        import trl

        about = environment() | {"trl": trl.__version__}
        write_json(
            RESULTS / "rl.json", {"environment": about, "rounds": rounds, "steps": steps, "rows": rows}
        )


if __name__ == "__main__":
    main()
