"""Models on the user's examples: paired by example, the same bytes for all, and what cannot be compared."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from coterie.config import ConfigError, DataError
from coterie.infer.model import LanguageModel
from coterie.recipes import compare_models as recipe
from coterie.recipes.compare_models import answer_bytes, compare_models
from coterie.report.compare_page import render_models
from tests.evaluate.items import Letters, model_of

ROWS = [{"prompt": f"The fox number {n} jumps", "completion": f" over {n} lazy dogs, é."} for n in range(10)]
MODELS = {"moe": ("moe", 3), "dense": ("dense", 3), "other": ("moe", 5), "twin": ("moe", 3)}


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of `MODELS` are loaded; timings are short."""

    def load(path: str) -> LanguageModel:
        kind, seed = MODELS[path]
        return model_of("chatml", kind, seed=seed)

    monkeypatch.setattr(recipe, "load", load)
    monkeypatch.setattr(recipe, "_ROUNDS", 1)
    monkeypatch.setattr(recipe, "_TOKENS", 2)


def written(path: Path, rows: list[dict[str, object]]) -> list[str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path)]


def test_bits_are_those_of_the_answers_alone(tmp_path: Path) -> None:
    data = written(tmp_path / "mine.jsonl", ROWS)
    found = compare_models(["moe", "dense"], data, clients=2, price_per_hour=3.6, out=tmp_path / "out")
    model = model_of("chatml", "moe", seed=3)
    nats = 0.0
    for row in ROWS:
        prompt, whole = (model.encode(text) for text in (row["prompt"], row["prompt"] + row["completion"]))
        nats -= float(model.logprobs(whole)[len(prompt) - 1 :].sum())
    size = sum(len(row["completion"].encode()) for row in ROWS)
    moe, dense = found.models
    # The end of the text is learnt too, one token of each answer: it adds its own nats, of a random model
    # about ln V.
    ends = len(ROWS) * math.log(model.config.vocab_size) / math.log(2) / size
    assert nats / math.log(2) / size < moe.bits < nats / math.log(2) / size + 3 * ends
    assert found.examples == 10 and found.pairs[0].bits.documents == 10
    assert found.pairs[0].bits.value == pytest.approx(dense.bits - moe.bits)
    assert moe.dollars == pytest.approx(1000 / moe.many)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page == render_models(found) and "http" not in page and "src=" not in page
    assert f"{moe.bits:.4f}" in page


def test_a_model_is_not_better_than_itself_and_tasks_are_paired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "load_benchmark", lambda name: Letters())
    data = written(tmp_path / "mine.jsonl", ROWS)
    found = compare_models(["moe", "twin"], data, ["letters"], limit=6, clients=1, out=tmp_path)
    pair = found.pairs[0]
    assert (pair.bits.value, pair.bits.low, pair.bits.high) == (0.0, 0.0, 0.0)
    assert pair.tasks["letters"].p == pair.p_holm["letters"] == 1.0
    assert "Your examples show no model to be better than the first." in found.lines()[0]
    assert "no difference on your examples is shown" in pair.words("moe")


def test_an_example_that_is_too_long_is_left_out_for_all(tmp_path: Path) -> None:
    rows = [*ROWS, {"prompt": "x", "completion": "a long answer " * 300}]
    found = compare_models(["moe", "other"], written(tmp_path / "m.jsonl", rows), clients=1, out=tmp_path)
    assert (found.examples, found.left_out) == (10, 1)
    assert "1 examples were left out" in found.lines()[-1]


def test_bytes_of_conversations_are_the_assistants(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": "Hé"},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Bye."},
    ]
    read = recipe.read_all(written(tmp_path / "m.jsonl", [{"messages": turns}]))
    assert answer_bytes(read.examples[0]) == 3 + 4


@pytest.mark.parametrize(
    ("paths", "rows", "error", "says"),
    [
        (["moe"], ROWS, ConfigError, "two or more"),
        (["moe", "moe"], ROWS, ConfigError, "different models"),
        (["moe", "http://localhost:1"], ROWS, ConfigError, "is a server"),
        (["moe", "other"], ROWS[:1], DataError, "fewer than two examples"),
        (
            ["moe", "other"],
            [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 3,
            DataError,
            "fewer than two",
        ),
    ],
)
def test_what_cannot_be_compared(
    tmp_path: Path, paths: list[str], rows: list[dict[str, object]], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        compare_models(paths, written(tmp_path / "m.jsonl", rows), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
