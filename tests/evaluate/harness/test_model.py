"""lm-eval's requests are answered as its own Hugging Face backend answers them, item by item, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import coterie
from coterie.config import ConfigError
from coterie.evaluate.harness.benchmark import harness_benchmarks
from coterie.evaluate.harness.model import HarnessModel
from coterie.evaluate.harness.subject import HarnessSubject
from coterie.evaluate.harness.tasks import load_tasks, quiet
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.scoring import score_benchmark
from tests.arithmetic import approx_model
from tests.evaluate.harness.support import POSITIONS, save_model, save_tasks


def run(lm: Any, paths: dict[str, Path], limit: int | None) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's own evaluation."""
    from lm_eval.evaluator import evaluate

    tasks = {name: load_tasks(str(path))[0] for name, path in paths.items()}
    with quiet():
        found = evaluate(lm, {"tasks": tasks}, limit=limit, bootstrap_iters=0)
    assert found is not None
    return dict(found["samples"])


def compare(folder: Path, kind: str, starts: bool, exact: bool, limit: int | None) -> int:
    """Number of items that were compared, after every one was found equal."""
    from lm_eval.models.huggingface import HFLM

    path, paths = save_model(folder / "model", kind, starts), save_tasks(folder)
    theirs = run(HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=1), paths, limit)
    subject = LocalSubject(coterie.load(path, dtype="float32"), exact=exact)
    ours = run(HarnessModel(subject), paths, limit)
    config, items = subject.model.config, 0
    for name, samples in theirs.items():
        (benchmark,) = harness_benchmarks(str(paths[name]))
        records = score_benchmark(HarnessSubject(subject, benchmark), benchmark, limit=limit).records
        for sample, mine, record in zip(samples, ours[name], records, strict=True):
            items += 1
            assert (mine["doc_hash"], mine["prompt_hash"]) == (sample["doc_hash"], sample["prompt_hash"])
            if name == "local_short":
                assert mine["resps"] == sample["resps"]
                assert record.reply == sample["resps"][0][0]
                assert record.score == sample["exact_match"]
                continue
            for (a,), (b,) in zip(mine["resps"], sample["resps"], strict=True):
                (a, b) = (a, b) if name == "local_choices" else ((a, True), (b, True))
                assert a[0] == approx_model(config, b[0], POSITIONS, size=abs(b[0]) + 10)
                assert a[1] == b[1]
            if exact:  # the same bits in another company
                answers = [one for (one,) in mine["resps"]]
                assert record.logprobs == [one[0] if name == "local_choices" else one for one in answers]
            if name == "local_choices":
                assert (record.score, record.lenient) == (sample["acc"], sample["acc_norm"])
    return items


def test_a_few_items_of_each_kind(tmp_path: Path) -> None:
    assert compare(tmp_path, "moe", starts=True, exact=True, limit=4) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "starts", "exact"), [("dense", True, True), ("moe", True, True), ("moe", False, False)]
)
def test_all_two_hundred_items(kind: str, starts: bool, exact: bool, tmp_path: Path) -> None:
    assert compare(tmp_path, kind, starts, exact, limit=None) == 200


def test_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    model = HarnessModel(LocalSubject(coterie.load(save_model(tmp_path / "model", "dense"))))

    class Asked:
        task_name, doc_id, idx, repeats = "mine", 0, 0, 1

        def __init__(self, **settings: Any) -> None:
            self.args = ("river", settings)

    with pytest.raises(ConfigError, match="mine: generation_kwargs num_beams cannot be used"):
        model.generate_until([Asked(num_beams=4, max_gen_toks=9)])
    with pytest.raises(ConfigError, match="mine: asks for replies of 96 tokens, and the model has 96"):
        model.generate_until([Asked(max_gen_toks=POSITIONS)])
    first, again = (
        model.generate_until([Asked(do_sample=True, temperature=2.0, max_gen_toks=9)]) for _ in "ab"
    )
    assert first == again  # a seed per item
