"""Does a model learn to reason from rewards, and from them alone? A mixture, its dense twin, and controls.

    python bench/learn.py [--archs dense moe] [--seeds 0 1 2] [--arms reward shuffled random flipped tuned]

A fresh model of two layers first gets worked replies to `parity` (14 bits). Whether it learns to follow them
within the steps depends on its first weights; one that does not is drawn again. Then it gets conversations
of which one in five shows its work: the start. It can work a problem through and hardly ever does. The arms
go on from there: `reward` by reinforcement; `shuffled`, `random` and `flipped` alike with altered rewards;
`tuned` on more of the start's conversations for as many operations as `reward` took, sampling included.

The test was fixed before the runs: 1,000 held-out problems, as many even as odd, answered greedily; an arm
passes with exact McNemar p < 0.001 and 15 points gained over the start. A greedy reply of the start guesses,
so it cannot become worse than chance: whether an arm goes down is seen in four replies to each problem,
sampled at temperature 1. Each result goes into bench/results/learn.json as it comes; what is there is not
run again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import gzip
import itertools
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file

from common import RESULTS, environment, write_json
from coterie.adapters.tuned import TRAINABLE
from coterie.checkpoints.directory import load_model, save_model
from coterie.config.errors import TrainingError
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from coterie.plan.counts import count_parameters, flops_per_token
from coterie.recipes import reinforce as recipe
from coterie.recipes.tune import tune
from coterie.reinforce.rollouts import Sampler
from coterie.results.accuracy import accuracy_change
from coterie.tasks.parity import Parity
from coterie.tasks.problem import TaskProblem, TaskVerdict
from coterie.tasks.rows import conversations
from coterie.text.tokenizer import Tokenizer

MAX_TOKENS = 40
MOST_P, LEAST_GAIN = 1e-3, 0.15
ARMS = ("reward", "shuffled", "random", "flipped", "tuned")
LEARNT, MOST_DRAWS = 0.02, 8  # the loss of a model that follows the steps, and how many are drawn at most
SAMPLED = 4  # replies to each held-out problem, besides the greedy one
HABIT_SHARE = 0.2  # of the conversations that show their work
CONTEXT = 48  # tokens of a conversation
TUNING = {
    "method": "full", "eval": 0.0, "retention": "none", "threads": 1, "batch_rows": 4, "row_length": 256,
    "schedule": {"kind": "wsd", "decay_fraction": 0.25},
}  # fmt: skip
REINFORCE = {
    "method": "full", "prompts": 16, "group": 8, "max_tokens": MAX_TOKENS, "threads": 1, "lr": 1e-4,
    "least_groups": 1, "eval_problems": 50, "eval_every": 0, "save_every": 0, "pass_at": {"problems": 0},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Size:
    """How hard the problems are, how many are held out, and how long each part lasts."""

    level: int = 9
    problems: int = 1000
    lessons: int = 6000
    lesson_steps: int = 360
    habits: int = 2000
    habit_steps: int = 100
    steps: int = 40


SMALL = Size(5, 52, lessons=1500, lesson_steps=240, habits=600, habit_steps=60, steps=30)


class AlteredParity(Parity):
    """Parity with other rewards: the part `given` counts, and `right` stays what it is."""

    def __init__(self, kind: str, seed: int) -> None:
        self._kind, self._random = kind, random.Random(seed)

    def judge_all(self, problems: Sequence[TaskProblem], replies: Sequence[str]) -> list[TaskVerdict]:
        """The true verdicts with altered rewards."""
        verdicts = super().judge_all(problems, replies)
        given = [verdict.parts["right"] for verdict in verdicts]
        if self._kind == "shuffled":
            self._random.shuffle(given)
        elif self._kind == "random":
            given = [float(self._random.random() < 0.5) for _ in given]
        else:
            given = [1.0 - value for value in given]
        pairs = zip(verdicts, given, strict=True)
        return [dataclasses.replace(v, parts={**v.parts, "given": reward}) for v, reward in pairs]


@contextlib.contextmanager
def altered(kind: str, seed: int) -> Iterator[dict[str, Any]]:
    """The recipe with altered rewards, which the check of a task would rightly refuse; gives its settings."""
    if kind == "reward":
        yield {}
        return
    family = AlteredParity(kind, seed)
    with (
        mock.patch.object(recipe, "load_task", lambda name: family),
        mock.patch.object(recipe, "require_passed", lambda family: None),
    ):
        yield {"reward_weights": {"right": 0.0, "given": 1.0}}


def shape(arch: str, vocab_size: int) -> dict[str, Any]:
    """`config.json` of a model; the dense feed-forward is as wide as two experts and the router."""
    common = {
        "vocab_size": vocab_size, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 256, "rope_theta": 100.0,
        "tie_word_embeddings": True,
    }  # fmt: skip
    if arch == "dense":
        return common | {"model_type": "qwen3", "intermediate_size": 136}
    experts = {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "moe_intermediate_size": 64,
    }
    return common | experts | {"model_type": "qwen3_moe", "router_aux_loss_coef": 0.01}


def rows(path: Path, level: int, count: int, seed: int, share: float) -> str:
    """Write conversations, of which `share` show their work."""
    shown = conversations(Parity(), [level], count, seed, worked_share=share)
    path.write_text("".join(json.dumps(row) + "\n" for row in shown))
    return str(path)


def start(folder: Path, size: Size, arch: str, seed: int) -> Path:
    """A model that can work a problem through and rarely does."""
    if (folder / "habit" / "model").is_dir():
        return folder / "habit" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    words = "user assistant think Parity of 1? Answer: 1\n\n"
    tokenizer = Tokenizer.train([words] * 30, 320)
    model = Transformer(config_from_hf(shape(arch, tokenizer.vocab_size)))
    for draw in range(seed, seed + 100 * MOST_DRAWS, 100):
        model.initialise(draw)
        save_model(folder / f"fresh-{draw}", model, tokenizer)
        lessons = rows(folder / f"lessons-{draw}.jsonl", size.level, size.lessons, draw, 1.0)
        options = TUNING | {"seed": draw, "lr": 2e-3, "steps": size.lesson_steps}
        out = folder / f"lessons-{draw}"
        skilled = tune(str(folder / f"fresh-{draw}"), lessons, out=str(out), **options).path
        if lesson_loss(out) < LEARNT:
            break
    else:
        raise TrainingError(f"none of {MOST_DRAWS} fresh models learnt to follow the worked steps")
    habits = rows(folder / "habit.jsonl", size.level, size.habits, seed + 1, HABIT_SHARE)
    path = tune(
        str(skilled), habits, out=str(folder / "habit"), lr=5e-4, steps=size.habit_steps, seed=seed, **TUNING
    ).path
    assert path is not None
    return path


def lesson_loss(folder: Path) -> float:
    """The mean loss of the last twenty steps."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return statistics.mean([line["loss"] for line in lines if line["kind"] == "train"][-20:])


@functools.cache
def held_out(size: Size) -> list[TaskProblem]:
    """Test problems of the level, half of them even: the same for all."""
    found: dict[str, dict[str, TaskProblem]] = {"0": {}, "1": {}}
    for index in itertools.count():
        problem = Parity().problem(size.level, index, "test")
        same = found[problem.answer]
        if len(same) < size.problems // 2:
            same[problem.id] = problem
        elif all(len(kind) == size.problems // 2 for kind in found.values()):
            return [*found["0"].values(), *found["1"].values()]
    raise AssertionError("the count has no end")


def answers(size: Size, model: Path) -> dict[str, Any]:
    """Replies to the held-out problems: which are right, how many show work, their length."""
    loaded = load_model(model, "float32")
    assert loaded.tokenizer is not None
    sampler = Sampler(loaded.model, loaded.tokenizer, Parity(), MAX_TOKENS)
    rollouts = [group.rollouts[0] for group in sampler.greedy(held_out(size))]
    sampled = [reply for group in sampler.groups(held_out(size), SAMPLED, (0,)) for reply in group.rollouts]
    return {
        "sampled": [rollout.verdict.right for rollout in sampled],
        "sampled_worked": sum(bool(rollout.reasoning) for rollout in sampled) / len(sampled),
        "right": [rollout.verdict.right for rollout in rollouts],
        "worked": sum(bool(rollout.reasoning) for rollout in rollouts) / len(rollouts),
        "tokens": sum(len(rollout.ids) for rollout in rollouts) / len(rollouts),
    }


def operations(size: Size, model: Path, run: Path) -> list[dict[str, float]]:
    """Of each step of a reinforcement: operations so far, sampling included, and the share of right replies.

    The prompt is counted for every reply, though replies of a group share it.
    """
    loaded = load_model(model, "float32")
    assert loaded.tokenizer is not None
    prompt = len(Sampler(loaded.model, loaded.tokenizer, Parity(), MAX_TOKENS).prompt_ids(held_out(size)[0]))
    total, steps = 0.0, []
    for path in sorted((run / "rollouts").glob("*.jsonl.gz")):
        with gzip.open(path, "rt") as file:
            kept = [json.loads(line) for line in file]
        for reply in kept:
            length = prompt + len(reply["ids"])
            forward = length * flops_per_token(loaded.model.config, length)
            total += forward * (4 if reply["learnt"] else 1)
        steps.append({"operations": total, "right": sum(r["parts"]["right"] for r in kept) / len(kept)})
    return steps


def reinforced(folder: Path, size: Size, begun: Path, arm: str, seed: int) -> tuple[Path, dict[str, Any]]:
    """An arm that learns from rewards, altered or not."""
    out = folder / arm
    with altered(arm, seed) as settings:
        options = REINFORCE | settings | {"levels": str(size.level), "seed": seed, "steps": size.steps}
        options |= {"save_every": 1} if arm == "flipped" else {}
        try:
            path = recipe.reinforce(str(begun), "parity", out=str(out), **options).path
        except TrainingError:
            if arm != "flipped":
                raise
            # Every reply is wrong, which earns the same for all: there is nothing left to learn.
            path = newest(begun, out)
    assert path is not None
    return path, {"steps": operations(size, begun, out)}


def newest(begun: Path, run: Path) -> Path:
    """The model of a run's last checkpoint."""
    loaded = load_model(begun, "float32")
    last = max((run / "checkpoints").glob("step-*"))
    parameters = dict(loaded.model.named_parameters())
    with torch.no_grad():
        for name, tensor in load_file(last / TRAINABLE).items():
            parameters[name].copy_(tensor)
    save_model(run / "last", loaded.model, loaded.tokenizer)
    return run / "last"


def tuned(folder: Path, size: Size, begun: Path, seed: int, budget: float) -> tuple[Path, dict[str, Any]]:
    """The arm that goes on with the start's conversations, for `budget` operations."""
    row = TUNING["row_length"]
    per_step = (
        row * TUNING["batch_rows"] * flops_per_token(load_model(begun).model.config, CONTEXT, training=True)
    )
    steps = round(budget / per_step)
    data = rows(folder / "more.jsonl", size.level, 2 * size.habits, seed + 2, HABIT_SHARE)
    options = TUNING | {"seed": seed, "lr": 5e-4, "steps": steps}
    path = tune(str(begun), data, out=str(folder / "tuned"), **options).path
    assert path is not None
    return path, {"steps": [{"operations": steps * per_step}]}


def run_arm(folder: Path, size: Size, run: dict[str, Any], arm: str, seed: int) -> dict[str, Any]:
    """Train one arm and compare it with the start."""
    begun, clock = Path(run["start"]["path"]), time.process_time()
    if arm == "tuned":
        path, more = tuned(folder, size, begun, seed, run["reward"]["steps"][-1]["operations"])
    else:
        path, more = reinforced(folder, size, begun, arm, seed)
    seconds = time.process_time() - clock
    before, after = (json.loads((folder / "start.json").read_text()), answers(size, path))
    sampled = accuracy_change(before["sampled"], after.pop("sampled"))
    change = accuracy_change(before["right"], after.pop("right"))
    gain = change.after.value - change.before.value
    passed = change.p < MOST_P and gain >= LEAST_GAIN
    changes = {"change": change.to_dict(), "sampled": sampled.to_dict()}
    return {"passed": passed, **changes, **after, "cpu_seconds": seconds, **more}


def start_operations(folder: Path, model: Path) -> float:
    """Of both parts of the start's training."""
    per_token = flops_per_token(load_model(model).model.config, CONTEXT, training=True)
    parts = [*folder.glob("lessons-*/metrics.jsonl"), folder / "habit" / "metrics.jsonl"]
    lines = [part.read_text().splitlines() for part in parts]
    return per_token * sum(max(json.loads(line).get("tokens", 0) for line in part) for part in lines)


def run_start(folder: Path, size: Size, arch: str, seed: int) -> dict[str, Any]:
    """Make the start and answer the held-out problems."""
    clock = time.process_time()
    path = start(folder, size, arch, seed)
    seconds = time.process_time() - clock
    found = answers(size, path)
    write_json(folder / "start.json", found)
    counts = count_parameters(load_model(path).model.config)
    right, sampled = found.pop("right"), found.pop("sampled")
    return {
        "path": str(path), "accuracy": sum(right) / len(right), **found,
        "sampled": sum(sampled) / len(sampled),
        "draws": len([*folder.glob("lessons-*/metrics.jsonl")]), "cpu_seconds": seconds,
        "operations": start_operations(folder, path), "parameters": counts.total,
        "active": counts.active_core,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archs", nargs="+", choices=("dense", "moe"), default=["dense", "moe"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--results", type=Path, default=RESULTS / "learn.json")
    parser.add_argument("--small", action="store_true", help="10 bits and 52 problems, as in the tests")
    parser.add_argument("--out", type=Path, default=Path("runs") / "learn")
    options = parser.parse_args()
    size = SMALL if options.small else Size()
    torch.set_num_threads(1)
    record = json.loads(options.results.read_text()) if options.results.is_file() else {"runs": {}}
    for seed in options.seeds:
        for arch in options.archs:
            name, folder = f"{arch}-{seed}", options.out / f"{arch}-{seed}"
            run = record["runs"].setdefault(name, {})
            for arm in ("start", *options.arms):
                if arm in run:
                    continue
                try:
                    run[arm] = (
                        run_start(folder, size, arch, seed)
                        if arm == "start"
                        else run_arm(folder, size, run, arm, seed)
                    )
                except TrainingError as error:
                    print(f"{name} {arm}: {error}")
                    continue
                shown = {key: value for key, value in run[arm].items() if key != "steps"}
                print(f"{name} {arm}: {shown}", flush=True)
                write_json(options.results, record | {"environment": environment()})
    write_json(options.results, record | {"environment": environment()})


if __name__ == "__main__":
    main()
