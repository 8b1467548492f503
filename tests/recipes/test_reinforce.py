"""Reinforcement end to end on tiny models: it learns what is rewarded, resumes exactly, and refuses."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from coterie.adapters.tuned import read_trainable
from coterie.checkpoints.directory import load_model, save_model
from coterie.config import ConfigError, CoterieError
from coterie.config.errors import TrainingError
from coterie.config.reinforce import ReinforceConfig
from coterie.recipes import reinforce_parts
from coterie.recipes.reinforce import ReinforceResult, reinforce
from coterie.recipes.reinforce_parts import ReinforceParts
from coterie.recipes.reinforce_report import draw_run, read_run
from coterie.reinforce import collapse
from coterie.reinforce.mismatch import measure_mismatch
from coterie.reinforce.rollouts import RolloutGroup, Sampler
from coterie.reinforce.source import RolloutSource
from coterie.results.accuracy import accuracy
from coterie.tasks import load_task
from coterie.tasks.problem import TaskVerdict
from coterie.train.loop import Trainer
from tests.recipes.tuned import base

# Earns a point for a reply that begins with a small letter.
TASK = """
def tasks():
    for number in range(200):
        yield {"prompt": f"Say {number}.", "answer": "a", "reply": "a"}


def reward(task, reply):
    return float(reply[:1].islower())
"""
SMALL: dict[str, Any] = {
    "steps": 8, "prompts": 8, "group": 4, "max_tokens": 3, "eval_problems": 12, "eval_every": 0,
    "save_every": 0, "method": "full", "lr": 1e-2, "threads": 1, "levels": "0",
    "pass_at": {"problems": 4, "samples": 3},
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate of a few problems."""
    monkeypatch.setattr(reinforce_parts, "_GATE_PROBLEMS", 12)
    monkeypatch.setattr(reinforce_parts, "_GATE_GROUP", 4)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the task and tiny models."""
    folder = tmp_path_factory.mktemp("reinforce")
    (folder / "small.py").write_text(TASK)
    return folder


def run(place: Path, name: str, family: str = "qwen3_moe", **settings: Any) -> ReinforceResult:
    """One run below `place`."""
    model = settings.pop("model", None) or str(base(place, family, calm=True))
    return reinforce(model, str(place / "small.py"), out=str(place / name), **(SMALL | settings))


def rollouts_of(place: Path, name: str) -> list[list[dict[str, Any]]]:
    """The kept replies of each step."""
    found = sorted((place / name / "rollouts").glob("*.jsonl.gz"))
    return [[json.loads(line) for line in gzip.open(path, "rt")] for path in found]


def rewards(place: Path, name: str) -> list[float]:
    """The mean reward of each step."""
    lines = (place / name / "metrics.jsonl").read_text().splitlines()
    return [record["reward"] for record in map(json.loads, lines) if record["kind"] == "rollout"]


@pytest.mark.parametrize(
    ("family", "method", "lr"),
    [("qwen3_moe", "full", 3e-2), pytest.param("llama", "lora", 1e-2, marks=pytest.mark.slow)],
)
def test_what_is_rewarded_becomes_likelier(place: Path, family: str, method: str, lr: float) -> None:
    name = f"{family}-{method}"
    more: dict[str, Any] = {}
    if method == "lora":  # adapters leave the head alone, so its scores must be far apart from the start
        loaded = load_model(base(place, family, calm=True), "float32")
        with torch.no_grad():
            loaded.model.head_weight.mul_(20)
        save_model(place / "loud" / family, loaded.model, loaded.tokenizer)
        more = {"rank": 4, "model": str(place / "loud" / family)}
    result = run(place, name, family, method=method, lr=lr, **more)
    first, *_, last = rewards(place, name)
    assert last > first + 0.3, rewards(place, name)
    assert result.path is not None and result.record is not None and result.record.proof is not None
    assert result.record.change.after.problems == result.record.change.before.problems == 12
    kept = rollouts_of(place, name)
    assert len(kept) == result.steps and all(len(step) >= 16 for step in kept)
    assert result.steps == SMALL["steps"] or result.reason == "learnt"
    assert {"prompt", "content", "reward", "ids", "logprobs", "learnt", "advantage"} <= kept[0][0].keys()
    of_group = [reply for reply in kept[0] if reply["problem"] == kept[0][0]["problem"]]
    assert all(reply["learnt"] == (reply["advantage"] is not None) for reply in of_group)
    if of_group[0]["learnt"]:
        assert sum(reply["advantage"] for reply in of_group) == pytest.approx(0, abs=1e-6)
    written = json.loads((place / name / "reinforce.json").read_text())
    assert written["task"] == "small" and written["readiness"]["problems"] == 12
    assert written["pass_at"]["before"]["samples"] == 3 and len(written["pass_at"]["change"]) == 3
    assert len(written["answered"]) == len(written["samples"]) == 12
    assert bool(written["experts"]) == (family == "qwen3_moe")
    page = result.page.read_text() if result.page is not None else ""
    assert f"{name}: learning small from rewards" in page and f"of {result.steps} steps were kept" in page
    assert written["training_flops"] > 0 and written["sampling_flops"] > 0
    records = [json.loads(line) for line in (place / name / "metrics.jsonl").read_text().splitlines()]
    assert all(r["mismatch"] < 1e-4 for r in records if r["kind"] == "rollout")
    flips = [r["routing_flips"] for r in records if r["kind"] == "rollout" and "routing_flips" in r]
    assert (len(flips) == SMALL["steps"] and not any(flips)) if family == "qwen3_moe" else not flips


def test_a_reward_turned_round_makes_it_rarer(place: Path) -> None:
    text = TASK.replace("float(reply[:1].islower())", "1.0 - float(reply[:1].islower())")
    (place / "turned.py").write_text(text)
    model = base(place, "llama", calm=True)
    task = str(place / "turned.py")
    with pytest.raises(CoterieError, match="its check fails"):
        reinforce(str(model), task, out=str(place / "refused"), **SMALL)
    assert not (place / "refused" / "model").exists()


def test_a_stopped_run_goes_on_to_the_same_weights(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(place, "whole", steps=2, save_every=1)
    batch = RolloutSource._batch

    def dies(self: RolloutSource, trainer: Any) -> Any:
        if trainer.step_count == 1:
            raise KeyboardInterrupt
        return batch(self, trainer)

    with monkeypatch.context() as patch:
        patch.setattr(RolloutSource, "_batch", dies)
        with pytest.raises(KeyboardInterrupt):
            run(place, "halves", steps=2, save_every=1)
    drawn = read_run(place / "halves")
    assert drawn.record is None and drawn.steps == 1 and drawn.kept.steps == 1
    assert "The run has not ended: 1 of 2 steps" in draw_run(place / "halves").read_text()
    with monkeypatch.context() as patch:  # what was measured before the first step is not measured again
        patch.setattr(ReinforceParts, "start", None)
        again = run(place, "halves", steps=2, save_every=1)
    assert whole.path is not None and again.path is not None
    first, second = (load_model(result.path, "float32").model.state_dict() for result in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert rewards(place, "whole") == rewards(place, "halves")
    assert [[r["ids"] for r in s] for s in rollouts_of(place, "whole")] == [
        [r["ids"] for r in s] for s in rollouts_of(place, "halves")
    ]


@pytest.mark.parametrize("replay", ["none", pytest.param("sampler", marks=pytest.mark.slow)])
def test_a_run_stopped_between_two_updates_goes_on_exactly(
    place: Path, monkeypatch: pytest.MonkeyPatch, replay: str
) -> None:
    several = {
        "steps": 3, "updates": 3, "save_every": 1, "prompts": 6,
        "policy": {"clip": "ppo", "replay": replay},
    }  # fmt: skip
    whole = run(place, f"updates-{replay}", **several)
    with monkeypatch.context() as patch:
        step = Trainer.step

        def dies(self: Trainer) -> Any:
            if self.step_count == 2:
                raise KeyboardInterrupt
            return step(self)

        patch.setattr(Trainer, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            run(place, f"cut-{replay}", **several)
    again = run(place, f"cut-{replay}", **several)
    assert whole.path is not None and again.path is not None
    first, second = (load_model(result.path, "float32").model.state_dict() for result in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(rollouts_of(place, f"cut-{replay}")) == 1


def test_what_is_learnt_ends_the_run_with_its_result(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = Sampler.groups

    def right(
        self: Sampler, problems: Any, size: int, key: tuple[int, ...], *rest: Any, **more: Any
    ) -> list[RolloutGroup]:
        found = groups(self, problems, size, key, *rest, **more)
        if key[1] < 2:
            return found
        always = TaskVerdict.of(True, "a")
        return [
            replace(g, rollouts=tuple(replace(r, verdict=always, reward=1.0) for r in g.rollouts))
            for g in found
        ]

    monkeypatch.setattr(Sampler, "groups", right)
    result = run(place, "learnt")
    assert (result.reason, result.steps) == ("learnt", 2)
    assert result.path is not None and result.record is not None and result.record.ended == "learnt"


def test_a_collapse_ends_with_the_weights_of_the_best_evaluation(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "alarm", lambda seen, _: "it fell" if len(seen["entropy"]) == 4 else None)
    rights = iter([1, 11, *[4] * 9])  # of 12: before the run, then after each step
    monkeypatch.setattr(
        reinforce_parts, "accuracy", lambda _: accuracy([at < n for n in [next(rights)] for at in range(12)])
    )
    settings: dict[str, Any] = {"save_every": 1, "eval_every": 1}
    result = run(place, "collapse", **settings)
    assert (result.reason, result.steps) == ("collapse", 4)
    assert result.record is not None and result.record.warnings[0] == "step 4: it fell"
    assert "the weights of step 1: the best held-out accuracy" in result.record.warnings[1]
    assert result.path is not None
    taken, best = load_model(result.path, "float32").model, load_model(result.path, "float32").model
    read_trainable(place / "collapse" / "best", best)
    pairs = zip(taken.parameters(), best.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_replies_do_not_depend_on_their_company(place: Path) -> None:
    loaded = load_model(base(place, "qwen3_moe", calm=True), "float32")
    assert loaded.tokenizer is not None
    sampler = Sampler(loaded.model, loaded.tokenizer, load_task(str(place / "small.py")), 4)
    problems = [sampler.family.problem(0, index) for index in range(3)]
    together = sampler.groups(problems, 4, (0, 7))
    alone = sampler.groups(problems[:1], 2, (0, 7), routing_of=1)
    assert [r.ids for r in alone[0].rollouts] == [r.ids for r in together[0].rollouts[:2]]
    assert alone[0].rollouts[0].routing and not together[0].rollouts[0].routing
    wrong = alone[0].rollouts[0]
    found = measure_mismatch(loaded.model, [(wrong, wrong.row(0.0))])
    assert found.largest < 1e-4 and found.flips == 0.0
    prompt, reply = wrong.segments
    moved = replace(reply, logprobs=tuple(value + 0.5 for value in reply.logprobs))
    shifted = replace(wrong, segments=(prompt, moved))
    assert measure_mismatch(loaded.model, [(shifted, wrong.row(0.0))]).largest == pytest.approx(0.5, abs=1e-3)


def test_without_a_signal_nothing_starts(place: Path) -> None:
    (place / "never.py").write_text(
        TASK.replace("reply[:1].islower()", 'reply == "a" * 40').replace('"reply": "a"', '"reply": "a" * 40')
    )
    model = base(place, "llama", calm=True)
    with pytest.raises(TrainingError, match=r"task never: only 0.0% of replies are right.*gate=false"):
        reinforce(str(model), str(place / "never.py"), out=str(place / "never"), **SMALL)
    with pytest.raises(TrainingError, match=r"step 1: only 0 of 32 groups have replies of different rewards"):
        reinforce(str(model), str(place / "never.py"), out=str(place / "never2"), gate=False, **SMALL)


def test_a_checker_that_begins_to_fail_ends_the_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = Sampler._judged

    def failing(self: Sampler, problems: Any, size: int, *rest: Any) -> list[RolloutGroup]:
        groups = judged(self, problems, size, *rest)
        if size == SMALL["group"]:
            groups[0] = RolloutGroup(groups[0].problem, (), size, "small.py: reward raised ZeroDivisionError")
        return groups

    monkeypatch.setattr(Sampler, "_judged", failing)
    with pytest.raises(
        TrainingError, match=r"the checker failed on \d+ of \d+ replies: small.py: reward raised"
    ):
        run(place, "failing", "llama")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updates": 2}, "more than one update needs a bound"),
        ({"prompts": 2}, "least_groups 4 is more than prompts 2"),
        ({"updates": 3, "policy": {"clip": "ppo"}}, "prompts 32 cannot be shared by 3 updates"),
        ({"policy": {"kl": "k3"}}, "'policy.kl' needs a policy.kl_weight above 0"),
        ({"policy": {"clip_low": 0.1}}, "'policy.clip_low' needs policy.clip=ppo"),
        ({"max_forgetting": 0.1}, "'max_forgetting' needs a tuning run"),
        ({"polcy": {}}, "polcy"),
    ],
)
def test_settings_that_cannot_be_followed(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReinforceConfig.from_dict({"model": "m", "task": "parity"} | settings, "reinforce")


def test_what_does_not_fit(place: Path) -> None:
    with pytest.raises(ConfigError, match="and max_tokens 250 are more than the 256 positions of the model"):
        run(place, "long", "llama", max_tokens=250)
    with pytest.raises(ConfigError, match="task tool-chains: a prompt of 763 tokens and max_tokens 128"):
        reinforce(
            str(base(place, "llama", calm=True)), "tool-chains", out=str(place / "tools"), method="full"
        )
