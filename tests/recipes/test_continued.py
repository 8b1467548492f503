"""`coterie train` from a given model: its own rate, before and after, the best weights, and the guard."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest

from coterie.checkpoints.directory import load_model
from coterie.config import ConfigError, DataError, TrainingError
from coterie.config.methods import CONTINUED_RATES, rate_for_size
from coterie.config.run import CONTINUED_WARMUP, TrainConfig
from coterie.data.build import Prepared, prepare
from coterie.data.heldout import LEAST_MEASURED, HeldoutDocument, retention_documents
from coterie.evaluate.bits import bits_per_byte
from coterie.evaluate.tuning import score_retention
from coterie.machine.processes import Processes
from coterie.recipes.continued import evaluation_interval
from coterie.recipes.heldout import evaluation_documents, heldout_bits
from coterie.recipes.pretrain import TrainResult, pretrain
from coterie.recipes.pretrainer import FRESH_RATE, pretrainer, stated_training
from tests.cli.support import MODEL, call

WORDS = (
    "the a one some cat dog tree house runs sees finds makes red green small large of in under and".split()
)


def write_text(folder: Path, words: list[str]) -> Path:
    folder.mkdir(parents=True)
    for index in range(40):
        lines = [
            " ".join(words[(index * 7 + i * i + j * (i + 3)) % len(words)] for j in range(12))
            for i in range(12)
        ]
        (folder / f"{index}.txt").write_text(f"Text number {index}.\n" + "\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained `model`, the `text` it was trained on, and `other` text."""
    place = tmp_path_factory.mktemp("continued")
    write_text(place / "text", WORDS)
    write_text(place / "other", [word[::-1] for word in WORDS])
    settings = {
        "model": MODEL,
        "data": {"sources": [str(place / "text")], "vocab_size": 300, "row_length": 64},
        "steps": 30,
        "batch_rows": 4,
        "optimiser": {"lr": 0.01},
        "out": str(place / "start"),
        "threads": 1,
        "dtype": "float32",  # as models are scored here, on every processor
    }
    pretrain(TrainConfig.from_dict(settings))
    return place


def settings_of(place: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": {"from": str(place / "start/model")},
        "data": {"sources": [str(place / "other")], "row_length": 64, "heldout_fraction": 0.3},
        "steps": 6,
        "batch_rows": 4,
        "retention": str(place / "text"),
        "out": str(out),
        "threads": 1,
        "dtype": "float32",
    } | changes


def further(place: Path, out: Path, **changes: Any) -> TrainResult:
    return pretrain(TrainConfig.from_dict(settings_of(place, out, **changes)))


def test_the_rate_follows_the_size_and_the_start(place: Path, tmp_path: Path) -> None:
    sizes = {1: 0, 49_999_999: 0, 50_000_000: 1, 999_999_999: 1, 10**9: 2, 10**12: 2}
    assert {n: CONTINUED_RATES.index(rate_for_size(CONTINUED_RATES, n)) for n in sizes} == sizes
    assert list(CONTINUED_RATES) == sorted(CONTINUED_RATES, reverse=True) and CONTINUED_RATES[0] < FRESH_RATE
    given = settings_of(place, tmp_path / "out")
    fresh = given | {"model": MODEL, "data": given["data"] | {"tokenizer": str(place / "start/model")}}
    prepared = prepare(TrainConfig.from_dict(fresh).data, tmp_path / "data")
    for settings, rate, warmup in (
        (given, CONTINUED_RATES[0], CONTINUED_WARMUP),
        (given | {"optimiser": {"lr": 0.3}, "schedule": {"warmup_fraction": 0.5}}, 0.3, 0.5),
        (fresh, FRESH_RATE, 0.02),
    ):
        config = TrainConfig.from_dict(settings)
        trainer = pretrainer(config, prepared, Processes())
        stated = stated_training(config, trainer, trainer.model)
        assert trainer.lr == rate == stated["optimiser"]["lr"] and stated["dtype"] == "float32"
        assert config.schedule.warmup_fraction == warmup
        config.to_yaml(tmp_path / "config.yaml")
        assert TrainConfig.from_yaml(tmp_path / "config.yaml") == config


def measured(prepared: Prepared, part: Literal["search", "final"]) -> list[HeldoutDocument]:
    """The held-out texts of a run as short as these."""
    return evaluation_documents(prepared, LEAST_MEASURED, part, cut=True)


def test_the_report_measures_the_start_and_the_written_model(place: Path, tmp_path: Path) -> None:
    result = further(place, tmp_path / "out")
    assert result.model is not None and result.report is not None
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report == result.to_dict()["report"] == result.report.to_dict()
    config = TrainConfig.from_dict(settings_of(place, tmp_path / "out"))
    data = config.data.model_copy(update={"tokenizer": str(place / "start/model")})
    prepared = prepare(data, tmp_path / "out/data")
    assert prepared.reused
    judging, choosing = (measured(prepared, part) for part in ("final", "search"))
    assert not {tuple(d.ids) for d in judging} & {tuple(d.ids) for d in choosing}
    kept = retention_documents(str(place / "text"), prepared.tokenizer, LEAST_MEASURED)
    for name, path in (("before", place / "start/model"), ("after", result.model)):
        model = load_model(path).model
        assert report["held_out_text"][name] == pytest.approx(
            heldout_bits(model, prepared, judging), rel=1e-6
        )
        bits = bits_per_byte(score_retention(model, prepared.tokenizer.eos_id, kept))
        assert report["retention"][name] == pytest.approx(bits, rel=1e-6)
    assert report["held_out_text"]["change"]["documents"] == len(judging)
    assert report["config"]["optimiser"]["lr"] == CONTINUED_RATES[0]
    page = (tmp_path / "out/report.html").read_text()
    assert "bits per byte of held-out text" in page and "What was trained" not in page


@pytest.mark.parametrize(
    ("source", "lr", "said"),
    [
        ("other", 0.2, ["best after step", "the model forgot more"]),
        ("text", 1.0, ["is not better than", "forgot more"]),
    ],
)
def test_a_run_that_gets_worse_says_so_and_keeps_its_best_weights(
    source: str, lr: float, said: list[str], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    # A rate that grows until it ruins the model. New text is best known after some steps, known text at once.
    changes = {"optimiser": {"lr": lr}, "schedule": {"kind": "constant", "warmup_fraction": 1.0}}
    data = {"sources": [str(place / source)], "row_length": 64, "heldout_fraction": 0.3}
    config = TrainConfig.from_dict(settings_of(place, out, eval_every=2, data=data, **changes))
    config.to_yaml(tmp_path / "run.yaml")
    call("train", str(tmp_path / "run.yaml"))
    printed = capsys.readouterr().out.splitlines()
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    bits = {r["step"]: r["heldout_bits_per_byte"] for r in records if r["kind"] == "eval"}
    assert set(bits) == {2, 4, 6}
    report = json.loads((out / "report.json").read_text())
    last = [line for line in printed if line.startswith("warning: ")]
    assert report["warnings"] == [line.removeprefix("warning: ") for line in last]
    assert all(any(words in line for line in last) for words in said)
    best = min(bits, key=lambda step: bits[step])
    assert any(f"best after step {best}" in line for line in last) == (best < 6)
    prepared = prepare(config.data.model_copy(update={"tokenizer": config.model["from"]}), out / "data")
    written = load_model(out / "model").model
    found = heldout_bits(written, prepared, measured(prepared, "search"))
    assert found == pytest.approx(min(bits.values()), rel=1e-6)
    model = (out / "model/model.safetensors").read_bytes()
    call("train", str(tmp_path / "run.yaml"))
    assert (out / "model/model.safetensors").read_bytes() == model, "the same command again changed the model"


def test_more_forgetting_than_allowed_ends_without_a_model(place: Path, tmp_path: Path) -> None:
    changes = {"optimiser": {"lr": 0.03}, "max_forgetting": 0.01}
    with pytest.raises(TrainingError, match=r"bits per byte after training, and max_forgetting is 0.01"):
        further(place, tmp_path / "out", **changes)
    assert not (tmp_path / "out/model").exists()
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["retention"]["change"]["value"] > 0.01 and "no result was written" in report["failed"]
    assert further(place, tmp_path / "out", **changes | {"max_forgetting": 100}).model is not None


def test_wrong_settings_are_one_line(place: Path, tmp_path: Path) -> None:
    for kind, said, changes in (
        (DataError, "retention nowhere", {"retention": "nowhere"}),
        (ConfigError, "nothing to forget", {"model": MODEL, "max_forgetting": 1.0}),
        (ConfigError, "schedule", {"schedule": 3}),
    ):
        with pytest.raises(kind, match=said) as caught:
            further(place, tmp_path / "out", **changes)
        assert "\n" not in str(caught.value)


def test_short_runs_are_evaluated_often_enough_to_keep_the_best() -> None:
    def looks(every: int, steps: int) -> int:
        settings = {"model": {"from": "x"}, "data": {}, "steps": steps, "eval_every": every}
        between = evaluation_interval(TrainConfig.from_dict(settings), steps)
        return math.ceil(steps / between) if between else 1

    assert [looks(200, steps) for steps in (1, 10, 11, 40, 100, 400, 800, 2000)] == [1, 1, 2, 4, 4, 4, 4, 10]
    assert looks(0, 1000) == 1 and looks(5, 40) == 8
