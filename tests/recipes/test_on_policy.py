"""Distillation on policy end to end on tiny models: it comes nearer, resumes exactly, and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coterie.checkpoints.directory import load_model, save_model
from coterie.config import ConfigError
from coterie.config.on_policy import OnPolicyConfig
from coterie.recipes.on_policy import OnPolicyResult, distill_on_policy
from coterie.recipes.trained_stages import searched
from coterie.reinforce.kept import kept_steps
from coterie.reinforce.on_policy import ReplySource
from coterie.text.tokenizer import Tokenizer
from coterie.train.callbacks import read_records
from tests.recipes.test_reinforce import TASK
from tests.recipes.tuned import base, conversations

SMALL: dict[str, Any] = {
    "steps": 4, "prompts": 8, "max_tokens": 6, "eval_prompts": 12, "eval_every": 0, "save_every": 0,
    "method": "full", "lr": 3e-3, "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task, examples, and tiny models: fresh students and a random teacher."""
    folder = tmp_path_factory.mktemp("on_policy")
    (folder / "small.py").write_text(TASK)
    conversations(folder / "data.jsonl")
    (folder / "teacher").mkdir()
    base(folder / "teacher", "llama")
    return folder


def run(place: Path, name: str, family: str = "qwen3_moe", **settings: Any) -> OnPolicyResult:
    asked = {} if "examples" in settings else {"task": str(place / "small.py"), "levels": "0"}
    given = SMALL | asked | settings
    student, teacher = base(place, family, calm=True), place / "teacher/llama"
    return distill_on_policy(str(student), str(teacher), out=str(place / name), **given)


def test_the_student_comes_nearer_than_its_control(place: Path) -> None:
    result = run(place, "nearer")
    record = result.record
    assert record is not None and result.path is not None and record.proof is not None
    assert record.distance.verdict == "better" and record.distance.change.value < -0.1
    assert record.over_control is not None and record.over_control.verdict == "better"
    assert record.tokens == record.control_tokens > 0
    assert record.right is not None and record.right.before.problems == 12 and record.right_teacher
    assert json.loads((place / "nearer/on_policy.json").read_text())["distance"]["before"] > 0
    assert len(record.samples) == 4 and "Say" in record.samples[0].prompt
    [_, (facts, index)] = searched(place / "nearer")
    assert facts.stage == "distill" and facts.coverage == 1.0 and index is not None
    [(_, shown), *_] = list(kept_steps(place / "nearer/replies", ""))
    assert {reply["writer"] for reply in shown} == {"student"} and "Say" in shown[0]["prompt"]
    logs = [read_records(place / path / "metrics.jsonl") for path in ("nearer", "nearer/control")]
    spent = [[r["tokens"] for r in log if r["kind"] == "rollout"] for log in logs]
    assert spent[0] == spent[1] and len(spent[0]) == SMALL["steps"]
    steps = [r for r in logs[0] if r["kind"] == "train"]
    assert steps[-1]["distil_kl"] < steps[0]["distil_kl"] and steps[0]["distil_share"] == 1.0
    assert load_model(result.path, "float32").model.config.is_moe
    assert any("KL(student || teacher)" in line for line in record.lines())


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "policy", "control": False},
        {"beta": 0.5, "own": 0.5, "control": False, "group": 2, "accumulate": 2},
        {"method": "lora", "rank": 4, "lr": 3e-2, "control": False},
    ],
)
def test_every_form_comes_nearer(place: Path, settings: dict[str, Any]) -> None:
    result = run(
        place, f"form-{len(settings)}-{settings.get('loss')}-{settings.get('method')}", "llama", **settings
    )
    record = result.record
    assert record is not None and record.over_control is None and record.control_tokens is None
    assert record.distance.change.value < 0
    assert result.kind == ("adapter" if settings.get("method") == "lora" else "model")


def test_prompts_of_examples(place: Path) -> None:
    result = run(place, "examples", examples=[str(place / "data.jsonl")], eval=0.3, control=False)
    record = result.record
    assert record is not None and record.right is None and "prompts of examples" in record.prompts
    assert record.distance.after > 0 and record.samples


def test_a_stopped_run_goes_on_to_the_same_weights(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"steps": 3, "save_every": 1, "own": 0.5, "control": True}
    whole = run(place, "whole", **more)
    step = ReplySource._step
    for arm, at in ((False, 2), (True, 1)):  # first in the student's run, then in the control's

        def dies(self: ReplySource, trainer: Any, arm: bool = arm, at: int = at) -> Any:
            if trainer.step_count == at and (self.budgets is not None) == arm:
                raise KeyboardInterrupt
            return step(self, trainer)

        with monkeypatch.context() as patch:
            patch.setattr(ReplySource, "_step", dies)
            with pytest.raises(KeyboardInterrupt):
                run(place, "halves", **more)
    again = run(place, "halves", **more)
    assert whole.path is not None and again.path is not None
    first, second = (load_model(result.path, "float32").model.state_dict() for result in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole.record is not None and again.record is not None
    assert whole.record.over_control == again.record.over_control
    assert whole.record.tokens == again.record.tokens == again.record.control_tokens


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": None}, "give either 'task' or 'examples'"),
        ({"examples": "x.jsonl"}, "give either 'task' or 'examples'"),
        ({"prompts": 5, "accumulate": 2}, "cannot be shared by 2 micro-batches"),
        ({"loss": "policy", "own": 0.5}, "'own' needs loss=divergence"),
        ({"loss": "policy", "beta": 0.5}, "'beta' needs loss=divergence"),
        ({"beta": 1.5}, "beta"),
        ({"techer": "x"}, "did you mean 'teacher'?"),
    ],
)
def test_mistakes_are_one_line(change: dict[str, Any], said: str) -> None:
    plain = {"model": "m", "teacher": "t", "task": "parity"} | change
    with pytest.raises(ConfigError) as caught:
        OnPolicyConfig.from_dict({key: value for key, value in plain.items() if value is not None})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_teacher_of_another_tokenizer_is_refused(place: Path) -> None:
    loaded = load_model(place / "teacher/llama", "float32")
    other = Tokenizer.train(["entirely different words and letters " * 5], 280)
    save_model(place / "other", loaded.model, other)
    with pytest.raises(ConfigError, match="different tokenizers"):
        distill_on_policy(
            str(base(place, "llama", calm=True)),
            str(place / "other"),
            task=str(place / "small.py"),
            out=str(place / "refused"),
            **SMALL,
        )


def test_a_reply_that_does_not_fit_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="positions of the model"):
        run(place, "long", max_tokens=250)
