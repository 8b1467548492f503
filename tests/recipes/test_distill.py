"""`coterie train distill` end to end: it helps, resumes, shares its cache, and refuses what cannot work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from coterie.checkpoints.directory import load_model, save_model
from coterie.config.distill import DistillConfig
from coterie.config.errors import ConfigError
from coterie.config.run import TrainConfig
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from coterie.recipes.distill import run_distill
from coterie.recipes.distill_student import spread_layers
from coterie.recipes.pretrain import pretrain
from coterie.train.callbacks import Interrupts, read_records

ROOT = Path(__file__).parents[2]
MODEL = {
    "model_type": "qwen3",
    "hidden_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
TEACHER = MODEL | {"num_hidden_layers": 2}
STUDENT = MODEL | {"hidden_size": 24, "head_dim": 12, "num_hidden_layers": 1, "intermediate_size": 64}
SMOLLM2 = {"model_type": "llama", "num_hidden_layers": 4}
MOE = STUDENT | {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
TEXT = {"sources": [{"path": "primer", "max_bytes": 120_000}], "row_length": 64}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model that has learnt some of the primer."""
    out = tmp_path_factory.mktemp("teacher")
    settings = {
        "model": TEACHER,
        "data": TEXT | {"vocab_size": 300},
        "steps": 40,
        "optimiser": {"lr": 0.01},
        "dtype": "float32",
        "out": str(out),
    }
    return str(pretrain(TrainConfig.from_dict(settings)).model)


def settings(teacher: str, out: Path, /, **more: Any) -> DistillConfig:
    given: dict[str, Any] = {
        "student": STUDENT,
        "teacher": teacher,
        "data": TEXT,
        "steps": 12,
        "batch_rows": 4,
        "optimiser": {"lr": 0.01},
        "dtype": "float32",
        "out": str(out),
    }
    return DistillConfig.from_dict(given | more)


def weights(path: Path | str | None) -> dict[str, torch.Tensor]:
    assert path is not None
    return load_model(path).model.state_dict()


def test_a_run_with_its_control_and_record(teacher: str, tmp_path: Path) -> None:
    result = run_distill(settings(teacher, tmp_path, student=MOE))
    record = result.record
    assert record is not None and record.control is not None and record.targets is not None
    assert record.teacher_score is not None
    assert record.teacher_score < record.student_score < record.start_score
    assert record.control.after == pytest.approx(record.student_score)
    assert "by cross-entropy alone at equal tokens" in record.verdict
    assert json.loads((tmp_path / "distill.json").read_text())["steps"] == 12
    assert record.targets.rows == record.targets.asked == 48
    found = {
        name: [r for r in read_records(tmp_path / name / "metrics.jsonl") if r["kind"] == "train"]
        for name in (".", "control")
    }
    assert [r["tokens"] for r in found["."]] == [r["tokens"] for r in found["control"]]
    # the same start and the same rows: before the first update both have the same cross-entropy
    assert found["."][0]["cross_entropy"] == pytest.approx(found["control"][0]["loss"], rel=1e-5)
    assert found["."][0]["distil_share"] == pytest.approx(0.9)  # all along
    page = (tmp_path / "report.html").read_text()
    assert (
        "by cross-entropy alone at equal tokens" in page
        and "<svg" in page
        and "http" not in page.split("<svg")[0]
    )
    assert load_model(tmp_path / "model", check=True).model.config.is_moe


def test_a_stopped_run_ends_in_the_same_weights(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run_distill(settings(teacher, tmp_path / "straight", control=False))
    assert straight.record is not None and "no control was trained" in straight.record.verdict
    stop_at = [5]

    def stop(self: Interrupts, trainer: Any) -> None:
        if trainer.step_count in stop_at:
            trainer.stop("interrupted")

    monkeypatch.setattr(Interrupts, "after_step", stop)
    stopped = run_distill(settings(teacher, tmp_path / "stopped", control=False))
    assert stopped.path is None and stopped.steps == 5
    stop_at.clear()
    resumed = run_distill(settings(teacher, tmp_path / "stopped", control=False))
    ours, theirs = weights(resumed.path), weights(straight.path)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_further_students_use_the_cache_and_nobody_else_does(teacher: str, tmp_path: Path) -> None:
    cache = str(tmp_path / "targets")
    run_distill(settings(teacher, tmp_path / "a", control=False, cache=cache, steps=2))
    other = STUDENT | {"num_hidden_layers": 2}
    second = run_distill(
        settings(teacher, tmp_path / "b", control=False, cache=cache, steps=3, student=other)
    )
    assert second.record is not None and second.record.targets is not None
    assert (second.record.targets.rows, second.record.targets.asked) == (12, 4)
    for change, words in (
        ({"temperature": 2.0}, "another temperature"),
        ({"data": TEXT | {"row_length": 32}}, "another data"),
        ({"targets": {"kind": "sampled"}}, "another targets.kind"),
        ({"teacher": str(tmp_path / "a" / "model")}, "another teacher"),
    ):
        with pytest.raises(ConfigError, match=words):
            run_distill(settings(teacher, tmp_path / "c", control=False, cache=cache, **change))
        shutil.rmtree(tmp_path / "c")


@pytest.mark.parametrize(
    "more",
    [
        {"mode": "online"},
        {"targets": {"kind": "full"}, "weighting": {"kind": "linear"}, "temperature": 2.0},
        {"targets": {"kind": "sampled", "draws": 8}, "weighting": {"kind": "const"}},
    ],
)
def test_every_mode_and_kind_trains(teacher: str, tmp_path: Path, more: dict[str, Any]) -> None:
    record = run_distill(settings(teacher, tmp_path, control=False, steps=3, **more)).record
    assert record is not None and record.student_score < record.start_score
    assert (record.targets is None) == (more.get("mode") == "online")


def test_some_layers_of_the_teacher_learn_from_examples(teacher: str, tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    pairs = [{"prompt": f"{n} + 1 =", "completion": f" {n + 1}"} for n in range(60)]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    student = {"from": teacher, "layers": 1}
    more = {"data": None, "examples": [str(file)], "eval": 0.2, "student": student, "steps": 3}
    record = run_distill(settings(teacher, tmp_path / "out", **more)).record
    assert record is not None and record.measure == "bits per token of held-out examples"
    whole, half = weights(teacher), weights(record.path)
    assert len([name for name in half if name.startswith("blocks.")]) * 2 == len(
        [name for name in whole if name.startswith("blocks.")]
    )


def test_the_shipped_recipe_runs_on_a_small_model_of_its_layout(teacher: str, tmp_path: Path) -> None:
    config = DistillConfig.from_yaml(ROOT / "recipes" / "real-distill.yaml")
    assert config.student == {"from": config.teacher, "layers": 15} and config.control  # SmolLM2 has 30
    tokenizer = load_model(teacher).tokenizer
    assert tokenizer is not None
    model = Transformer(config_from_hf(MODEL | SMOLLM2 | {"vocab_size": tokenizer.vocab_size}))
    model.initialise(0)
    save_model(tmp_path / "teacher", model, tokenizer)
    changes = {
        "student": {"from": str(tmp_path / "teacher"), "layers": 2},
        "teacher": str(tmp_path / "teacher"),
        "data": TEXT,
        "steps": 2,
        "out": str(tmp_path / "out"),
    }
    record = run_distill(DistillConfig.from_dict(config.to_dict() | changes)).record
    assert record is not None and record.control is not None and record.steps == 2
    assert json.loads((tmp_path / "out" / "model" / "config.json").read_text())["num_hidden_layers"] == 2


def test_layers_are_spread_evenly() -> None:
    assert spread_layers(30, 15)[:3] == [0, 2, 4] and spread_layers(30, 15)[-1] == 29
    assert spread_layers(4, 4) == [0, 1, 2, 3] and spread_layers(5, 1) == [0]
    assert all(len(set(spread_layers(n, k))) == k for n in range(1, 40) for k in range(1, n + 1))


def test_other_tokenizers_are_refused_in_one_line(teacher: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    a, b = (next(token for token, number in vocabulary.items() if number == at) for at in (70, 71))
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="the same tokens with other ids: id 70 is") as error:
        run_distill(settings(teacher, tmp_path / "out", student={"from": str(other)}))
    assert "\n" not in str(error.value)
    content["model"]["vocab"] = {token.replace(a, "zq"): n for token, n in vocabulary.items()}
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="different tokenizers"):
        run_distill(settings(teacher, tmp_path / "out", student={"from": str(other)}))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"data": None}, "'data' .text. or as 'examples'"),
        ({"steps": 3, "tokens": 5}, "'tokens' and 'steps' both"),
        ({"student": {"hidden_size": 8}}, "'student' is 'from'"),
        ({"student": {"from": "x", "hidden_size": 8}}, "only 'layers' can go with it"),
        ({"student": {"from": "x", "layers": 0}}, "student.layers 0"),
        ({"mode": "online", "targets": {"k": 3}}, "'targets.k' needs mode=offline"),
        ({"weighting": {"kind": "linear", "kappa": 0.1}}, "'weighting.kappa' needs weighting.kind=gated"),
        ({"targets": {"k": 100_000}}, "use targets.kind=full"),
        ({"data": TEXT | {"row_length": 512}}, "longer than the 128 positions"),
        ({"data": TEXT | {"vocab_size": 300}}, "'data.vocab_size' needs"),
        ({"student": {"from": "TEACHER", "layers": 9}}, "has only 2"),
    ],
)
def test_refusals(teacher: str, tmp_path: Path, more: dict[str, Any], words: str) -> None:
    if more.get("student", {}).get("from") == "TEACHER":
        more = {"student": more["student"] | {"from": teacher}}
    with pytest.raises(ConfigError, match=words) as error:
        run_distill(settings(teacher, tmp_path, **more))
    assert "\n" not in str(error.value)
