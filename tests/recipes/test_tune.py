"""Tuning from its command line and from Python: it learns, resumes, and stops where it must."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import coterie
from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import ConfigError, CoterieError, DataError, TrainingError
from coterie.machine.processes import Processes
from coterie.nn.transformer import Transformer
from coterie.recipes import tune as recipe
from coterie.recipes import tune_cost
from coterie.train import Callback, Trainer
from tests.adapters.test_attach import MERGED
from tests.arithmetic import approx, assert_model_close, mean_sums
from tests.recipes.tuned import ANSWERS, base, command, conversations, report_of, tensors, tuned

MOE_FAMILIES = ["mixtral", "olmoe", "llama4_scout", "deepseek_v3", "deepseek_v2_lite", "gpt_oss"]
MOE_FAMILIES += ["nemotron_h_moe"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    conversations(folder / "data.jsonl")
    return folder


@pytest.mark.parametrize(
    "family", ["qwen3", "qwen3_moe", *(pytest.param(name, marks=pytest.mark.slow) for name in MOE_FAMILIES)]
)
def test_the_same_three_commands_tune_merge_and_talk(
    family: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out, merged = base(folder, family), folder / f"run-{family}", folder / f"merged-{family}"
    code, printed, said = command(
        monkeypatch,
        capsys,
        "tune",
        model,
        folder / "data.jsonl",
        "-o",
        out,
        "--steps",
        3,
        "row_length=128",
        "rank=4",
    )
    assert code == 0, said
    assert Path(printed.strip()) == out / "adapter" and "reloaded from disk: gravity 1.000" in said
    report = json.loads((out / "report.json").read_text())
    reached = {entry["group"]: entry for entry in report["coverage"]}
    assert ("experts" in reached) == (family != "qwen3")
    assert {entry["group"] for entry in report["plan"] if entry["trainable"]} == set(reached)
    page = (out / "report.html").read_text()
    assert "held-out examples" in page and "attention" in page and "<script" not in page
    code, printed, said = command(monkeypatch, capsys, "merge", model, out / "adapter", "-o", merged)
    assert code == 0, said
    code, printed, said = command(monkeypatch, capsys, "run", merged, "red?", "--max-tokens", 4)
    assert code == 0, said
    whole, apart = coterie.load(merged), coterie.load(model, adapter=out / "adapter")
    ids = whole.encode("red? green?")
    assert_model_close(whole.config, whole.logits(ids), apart.logits(ids), len(ids), passes=MERGED)


@pytest.mark.parametrize("family", [pytest.param("llama", marks=pytest.mark.slow), "olmoe"])
def test_a_tiny_model_learns_a_small_set_of_conversations(family: str, tmp_path: Path) -> None:
    data = conversations(tmp_path / "data.jsonl", copies=1)
    model = base(tmp_path, family, calm=True)
    result = tuned(model, data, tmp_path / "out", method="full", steps=80, lr=0.006, dtype="float32")
    assert result.path is not None and result.kind == "model" and result.reason == "finished"
    learned = coterie.load(result.path)
    for colour, answer in ANSWERS.items():
        reply = learned.chat([{"role": "user", "content": f"{colour}?"}], temperature=0.0, max_tokens=12)
        assert reply.text == answer


def test_a_resumed_run_gives_the_same_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = base(folder, "qwen3_moe"), folder / "data.jsonl"
    settings: dict[str, Any] = {"steps": 6, "save_every": 2, "dropout": 0.1}
    whole = tuned(model, data, folder / "whole", **settings)

    class Break(Callback):
        def after_step(self, trainer: Trainer) -> None:
            if trainer.step_count == 5:
                raise RuntimeError("the power is gone")

    plain = recipe.watchers
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "watchers", lambda *args: [*plain(*args), Break()])
        with pytest.raises(RuntimeError, match="power"):
            tuned(model, data, folder / "broken", **settings)
    assert not (folder / "broken/adapter").exists()
    again = tuned(model, data, folder / "broken", **settings)
    assert again.steps == 6 and again.path is not None and whole.path is not None
    assert all(torch.equal(tensors(whole.path)[name], value) for name, value in tensors(again.path).items())
    assert report_of(again).coverage == report_of(whole).coverage != []
    with pytest.raises(ConfigError, match="another 'rank'"):
        tuned(model, data, folder / "broken", **settings, rank=8)


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_command(folder: Path) -> None:
    model, data, out = base(folder, "qwen3_moe"), folder / "data.jsonl", folder / "killed"
    words = f"tune {model} {data} -o {out} --steps 40 save_every=5 row_length=128 retention=none guard=off"
    line = [sys.executable, "-m", "coterie.cli.main", *words.split()]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoints/step-??????")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "adapter").exists()
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0 and "resuming from" in done.stderr and (out / "adapter").is_dir(), done.stderr


def test_more_forgetting_than_allowed_ends_without_a_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "Cats sleep in the sun and dogs run after a ball in the wide green park every day. "
    (folder / "keep.txt").write_text(words * 30)
    (folder / "keep.jsonl").write_text(json.dumps({"text": words * 2}) + "\n")
    known = tuned(
        base(folder, "llama"), folder / "keep.jsonl", folder / "known", method="full", lr=0.01, steps=20
    )
    model, out = known.path, folder / "forgot"
    settings = ["--steps", 30, "--lr", 0.05, "row_length=128", f"retention={folder / 'keep.txt'}"]
    line = ["tune", model, folder / "data.jsonl", "-o", out, *settings]
    code, printed, said = command(monkeypatch, capsys, *line, "--max-forgetting", 0.01)
    assert code == 1 and printed == "" and "max_forgetting is 0.01" in said
    assert not (out / "adapter").exists()
    report = json.loads((out / "report.json").read_text())
    assert report["retention"]["change"]["value"] > 0.01 and "failed" in report
    # Allowed: the same run's result.
    code, printed, said = command(monkeypatch, capsys, *line, "--max-forgetting", 100)
    assert code == 0 and (out / "adapter").is_dir(), said


def test_coverage_stops_a_group_without_gradient_and_a_frozen_tensor_that_moved(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = base(folder, "qwen3_moe"), folder / "data.jsonl"
    plain = recipe.watchers

    class Lose(Callback):
        """Drops the experts' gradients before the check, as a forward pass without the factors would."""

        def after_backward(self, trainer: Trainer) -> None:
            for name, parameter in trainer.model.named_parameters():
                if ".experts." in name:
                    parameter.grad = None

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "watchers", lambda *args: [Lose(), *plain(*args)])
        with pytest.raises(TrainingError, match="'experts' was to be trained and none of its 6 layers"):
            tuned(model, data, folder / "lost")
    assert not (folder / "lost/adapter").exists()

    class Swap(Callback):
        """Two experts trade places: every number is still there."""

        def after_step(self, trainer: Trainer) -> None:
            assert isinstance(trainer.model, Transformer)
            weight = trainer.model.blocks[0].ffn.experts.down.weight  # type: ignore[union-attr]
            weight.data = weight.data.flip(0).clone()

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "watchers", lambda *args: [*plain(*args), Swap()])
        with pytest.raises(TrainingError, match=r"blocks\.0\.ffn\.experts\.down\.weight' was to stay frozen"):
            tuned(model, data, folder / "moved", steps=1)
    assert not (folder / "moved/adapter").exists()


def test_only_the_main_process_writes_the_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class BecomeAnother(Callback):
        def after_step(self, trainer: Trainer) -> None:
            trainer.processes = Processes(rank=1)

    plain, out = recipe.watchers, folder / "other"
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "watchers", lambda *args: [*plain(*args), BecomeAnother()])
        result = tuned(base(folder, "llama"), folder / "data.jsonl", out, steps=1)
    assert not (out / "adapter").exists() and not (out / "report.json").exists()
    assert report_of(result).proof is None


def test_experts_without_tokens_are_reported_and_not_failed(folder: Path) -> None:
    one = folder / "one.jsonl"
    one.write_text((folder / "data.jsonl").read_text().splitlines()[0] + "\n")
    result = tuned(base(folder, "llama4_scout"), one, folder / "few", steps=1, batch_rows=1)
    experts = next(entry for entry in report_of(result).coverage if entry.group == "experts")
    assert experts.experts is not None and experts.experts_reached is not None
    assert 0 < experts.experts_reached <= experts.experts and experts.reached == experts.layers


def test_the_guard_ends_a_run_that_sends_tokens_elsewhere(folder: Path) -> None:
    settings: dict[str, Any] = {"router": "full", "lr": 0.3, "warmup": 1.0, "steps": 20, "save_every": 1}
    settings |= {"guard": "rollback"}
    result = tuned(base(folder, "qwen3_moe"), folder / "data.jsonl", folder / "astray", **settings)
    assert result.reason.startswith("routing: step") and result.steps < 20 and report_of(result).warnings


def test_an_adapter_is_trained_further_and_is_its_own_reference(folder: Path) -> None:
    model = base(folder, "qwen3_moe")
    first = tuned(model, folder / "data.jsonl", folder / "first")
    assert first.path is not None
    pairs = folder / "pairs.jsonl"
    lines = [
        {
            "prompt": [{"role": "user", "content": f"{colour}?"}],
            "chosen": [{"role": "assistant", "content": answer}],
            "rejected": [{"role": "assistant", "content": "sing"}],
        }
        for colour, answer in ANSWERS.items()
    ]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    second = tuned(first.path, pairs, folder / "second", steps=1, clip_norm=None)
    losses = [json.loads(line) for line in (folder / "second/metrics.jsonl").read_text().splitlines()]
    config = Checkpoint.open(model).config
    start = approx(math.log(2), *mean_sums(config), size=math.log(config.vocab_size))
    assert next(r["loss"] for r in losses if r["kind"] == "train") == start
    assert second.path is not None and tensors(second.path).keys() == tensors(first.path).keys()


@pytest.mark.parametrize("objective", ["dpo", "ipo", "dpo-norm", "orpo", "kto", "pretrain"])
def test_every_objective_runs_from_its_data(objective: str, folder: Path) -> None:
    lines: list[dict[str, Any]] = []
    for colour, answer in ANSWERS.items():
        if objective == "kto":
            lines += [{"prompt": colour, "completion": answer, "label": True}]
            lines += [{"prompt": colour, "completion": "sing", "label": False}]
        elif objective == "pretrain":
            lines += [{"text": f"At {colour} we {answer}."}]
        else:
            lines += [{"prompt": colour, "chosen": answer, "rejected": "sing"}]
    data = folder / f"{objective}.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = tuned(base(folder, "llama"), data, folder / f"as-{objective}", objective=objective)
    proof = report_of(result).proof
    assert result.path is not None and proof is not None and proof.gravity == 1.0


def test_preferences_are_judged_by_their_chosen_side(folder: Path) -> None:
    pairs = folder / "prefer.jsonl"
    lines = [{"prompt": c, "chosen": a, "rejected": "sing"} for c, a in ANSWERS.items()]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings: dict[str, Any] = {"eval": str(pairs), "steps": 12, "lr": 0.01}
    report = report_of(tuned(base(folder, "llama"), pairs, folder / "prefer", **settings))
    assert report.held_out is not None and report.held_out.change.documents == len(lines)
    assert report.preferred == 1.0


def test_mistakes_are_one_line_each(folder: Path) -> None:
    model, data = base(folder, "qwen3_moe"), folder / "data.jsonl"
    wrong: list[tuple[type[CoterieError], str, dict[str, Any]]] = [
        (ConfigError, "did you mean 'epochs'", {"epoch": 3}),
        (ConfigError, "unknown group 'expert'", {"train": {"expert": "lora"}}),
        (ConfigError, "'bias' is for routers", {"train": {"attention": "bias"}}),
        (ConfigError, "method esft", {"method": "esft"}),
        (ConfigError, "keep one", {"learning_rate": 1e-3, "lr": 1e-3}),
        (DataError, "needs preferences", {"objective": "dpo"}),
        (DataError, "row_length is 2", {"row_length": 2}),
        (DataError, "no such file", {"retention": "nowhere.txt"}),
    ]
    for kind, message, settings in wrong:
        with pytest.raises(kind, match=message) as caught:
            tuned(model, data, folder / "mistake", **settings)
        assert "\n" not in str(caught.value)
    assert not list((folder / "mistake").glob("adapter"))


def test_a_dry_run_says_the_plan_and_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune_cost, "step_seconds", lambda config, settings: 0.25 * settings.batch_rows)
    train = "attention=freeze,experts=lora,shared=freeze,dense=freeze,router=full"
    words = ["tune", base(folder, "qwen3_moe"), folder / "data.jsonl", "-o", folder / "dry", "--train", train]
    code, printed, said = command(monkeypatch, capsys, *words, "--dry-run", "--json", "rank_rule=active")
    assert code == 0, said
    cost = json.loads(printed)["cost"]
    assert cost["peak_bytes"] > 4e8 and cost["seconds"] >= cost["step_seconds"] > 0 and "cost  " in said
    plan = {entry["group"]: entry for entry in json.loads(printed)["report"]["plan"]}
    assert {group for group, entry in plan.items() if entry["trainable"]} == {"experts", "router"}
    assert "rank rule: active (16 asked, 5 for each expert)" in said and not (folder / "dry").exists()
    assert plan["experts"]["tokens"] > 0 and plan["experts"]["bits"] == 32.0
