"""The main job in little: it compares, reports, resumes after a stop, and both models load elsewhere."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import coterie
from coterie.checkpoints.commit import verify_directory
from coterie.config import ConfigError, DataError
from coterie.evidence.keys import read_public_key
from coterie.families import config_from_hf
from coterie.nn.kernels import one_pass
from coterie.plan.counts import count_parameters
from coterie.recipes.quickstart import reasoning
from coterie.recipes.quickstart.plan import Plan, take_up
from coterie.recipes.quickstart.release import release_chapter
from coterie.recipes.quickstart.run import quickstart, redraw
from coterie.recipes.quickstart.twins import VOCAB_SIZE, twins
from coterie.recipes.verify_report import replayed_items, report_folder
from coterie.release.check import check_release
from coterie.results.quickstart import QuickstartResults
from tests.arithmetic import assert_model_close

MINUTES = 1.2
HASTE = 3.0  # how much faster than the processor's clock that of the run goes: fewer steps of the same models


def clock() -> float:
    """The processor's clock decides what fits, so that a busy machine makes no difference."""
    return HASTE * time.process_time()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small comparison on a folder of the package's own sources."""
    out = tmp_path_factory.mktemp("quickstart") / "run"
    source = str(Path(coterie.__file__).parent / "nn")
    one_pass.ready()  # what is compiled and imported once on a machine is not what the clock is about
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("coterie.recipes.quickstart.twins.BATCH_ROWS", 2)
        parts = [dataclasses.replace(part, most_steps=2, examples=40) for part in reasoning.PARTS]
        patched.setattr(reasoning, "PARTS", parts)
        patched.setattr(reasoning, "_HELD_OUT", 8)
        patched.setattr("coterie.recipes.reinforce_parts._GATE_PROBLEMS", 8)
        patched.setattr("coterie.recipes.quickstart.run.time", SimpleNamespace(monotonic=clock))
        patched.setattr("coterie.recipes.quickstart.lr_sweep.time", SimpleNamespace(perf_counter=clock))
        quickstart(MINUTES, source, 0, out, 1)
    return out


def test_results_and_report_are_complete(out: Path) -> None:
    results = QuickstartResults.read(out / "results.json")
    for part in (results.moe, results.dense):
        assert part.tokens == results.moe.tokens > 0
        assert part.peak_memory_bytes > 50e6 and part.step_ms > 0 and part.decode_tokens_per_second > 0
        assert part.lr in [point.lr for point in part.lr_sweep]
        assert part.curve[-1].tokens == part.tokens
        verify_directory(Path(part.path))
    assert [p.lr for p in results.moe.lr_sweep] == [p.lr for p in results.dense.lr_sweep]
    assert results.difference.value == pytest.approx(
        results.moe.bits_per_byte.value - results.dense.bits_per_byte.value, abs=1e-9
    )
    assert (
        results.tuned is not None and results.tuned.gravity > 0.9 and results.tuned.held_out.change.high < 0
    )
    verify_directory(Path(results.tuned.path))
    page = (out / "report.html").read_text()
    assert "Tuned on conversations" in page
    # Two steps teach nothing, so there is nothing to reward, and the page says so.
    assert results.reasoning is not None and "replies are right" in (results.reasoning.refused or "")
    assert "Reasoning, learnt from rewards" in page and "The rewards taught nothing" in page
    assert "<svg" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_the_mixture_is_released_and_one_changed_expert_is_refused(out: Path) -> None:
    results = QuickstartResults.read(out / "results.json")
    found = results.release
    assert found is not None and results.reasoning is not None and found.model == results.reasoning.path
    assert found.refused == [] and found.reasons == []
    assert [score.task for score in found.scores] == ["parity", "safety-refusals"]
    released = check_release(out / "release", [read_public_key(out / "evidence" / "run.key.pub")])
    assert released.refusals == [] and released.record is not None and released.record.replayed is not None
    assert any(
        line.startswith("identity: the report is of the weights ") and ": expert 3)" in line
        for line in found.refusals
    )
    page = (out / "report.html").read_text()
    assert "Released with its evidence" in page and ": expert 3)" in page
    card = (out / "release" / "README.md").read_text()
    assert "coterie eval verify quickstart quickstart --m 60" in card
    ran, differing = replayed_items(
        report_folder(str(out / "release" / "report.json")), str(out / "release"), 2
    )
    assert ran.items == 4 and differing == []


def test_a_chapter_that_fails_is_a_result(tmp_path: Path) -> None:
    found = release_chapter(tmp_path, tmp_path / "nothing", None)
    assert len(found.refused) == 1 and "nothing" in found.refused[0] and not (tmp_path / "release").exists()


@pytest.mark.parametrize("name", ["moe", "dense"])
def test_both_models_load_in_transformers_with_the_same_logits(out: Path, name: str) -> None:
    path = out / name / "model"
    theirs, info = AutoModelForCausalLM.from_pretrained(
        path, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    theirs.config._experts_implementation = "eager"
    ours = coterie.load(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    text = "def forward(self, x: int) -> list[str]:\n    return [1, 2.5]"
    ids = ours.encode(text)
    assert tokenizer(text)["input_ids"] == ids, "both put the document separator first"
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0]
    assert_model_close(ours.config, ours.logits(ids), expected, len(ids))


def test_drawing_again_gives_the_same_page(out: Path) -> None:
    before = (out / "report.html").read_bytes()
    assert redraw(out)[1].read_bytes() == before


def test_other_settings_do_not_touch_a_stopped_run(out: Path, tmp_path: Path) -> None:
    plan = Plan.from_dict(json.loads((out / "plan.json").read_text()))
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    with pytest.raises(ConfigError, match="stopped run with other settings"):
        take_up(plan.model_copy(update={"seed": 5, "sweeps": None}), tmp_path)
    assert take_up(plan, tmp_path) == plan


def test_too_little_text_is_said_before_training(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for index in range(4):
        (text / f"{index}.txt").write_text(f"only a few words, {index} in all\n")
    with pytest.raises(DataError, match="give more text"):
        quickstart(MINUTES, str(text), 0, tmp_path / "out", 1)


@pytest.mark.parametrize("minutes", [1, 8, 60])
def test_twins_have_equal_active_parameters(minutes: float) -> None:
    configs = [
        config_from_hf({"vocab_size": VOCAB_SIZE} | settings, strict=True) for settings in twins(minutes)
    ]
    moe, dense = (count_parameters(config).active_core for config in configs)
    assert 0.98 < moe / dense <= 1.0, "the dense twin must not be the smaller one"
