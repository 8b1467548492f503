"""Two recipes with their trainings: equal budgets, the same documents, one verdict, going on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from coterie.config import ConfigError, TrainingError
from coterie.config.budget import TrainingBudget
from coterie.config.files import read_json
from coterie.config.run import TrainConfig
from coterie.data.build import prepare
from coterie.recipes import compare_recipes as recipe
from coterie.recipes.compare_recipes import compare_recipes
from coterie.recipes.pretrain import pretrain
from coterie.recipes.quickstart.lr_sweep import Sweep

MODEL = {
    "model_type": "qwen3",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def written(path: Path, **changes: object) -> str:
    settings = {
        "model": MODEL,
        "data": {
            "sources": [{"path": "primer", "max_bytes": 60_000}],
            "vocab_size": 300,
            "row_length": 32,
            "heldout_fraction": 0.2,
        },
        "steps": 1,
        "batch_rows": 4,
        "optimiser": {"lr": 0.01},
        "out": "elsewhere",
    }
    path.write_text(yaml.safe_dump(settings | changes))
    return str(path)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings run in this process; the list names them."""
    trained: list[str] = []

    def train(config: TrainConfig, path: Path) -> None:
        if not (Path(config.out) / "model").is_dir():
            trained.append(Path(config.out).name)
            pretrain(config)

    monkeypatch.setattr(recipe, "train_twin", train)
    return trained


@pytest.mark.slow
def test_a_recipe_that_hardly_learns_is_not_adopted(tmp_path: Path, here: list[str]) -> None:
    good = written(tmp_path / "good.yaml")
    bad = written(tmp_path / "bad.yaml", optimiser={"lr": 1e-6})
    found = compare_recipes([good, bad], "4ktok", 2, tmp_path / "out")
    assert here == ["a-0", "b-0", "a-1", "b-1"]
    assert found.verdict == "keep" and found.difference.low > 0.1
    assert {run.tokens for side in (found.first, found.second) for run in side.runs} == {31 * 128}
    assert [side.runs[0].bits != side.runs[1].bits for side in (found.first, found.second)] == [True, True]
    assert (tmp_path / "out" / "report.html").is_file()

    again = compare_recipes([good, bad], "4ktok", 2, tmp_path / "out")
    assert len(here) == 4 and again.difference == found.difference
    more = compare_recipes([good, bad], "4ktok", 3, tmp_path / "out")
    assert here[4:] == ["a-2", "b-2"] and len(more.per_seed) == 3
    with pytest.raises(ConfigError, match="other recipes or another budget"):
        compare_recipes([good, bad], "5ktok", 2, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["6s", "2e8flops"])
def test_budgets_of_time_and_of_operations(tmp_path: Path, budget: str) -> None:
    """By the real command of each training, in a process for each."""
    good = written(tmp_path / "good.yaml")
    bad = written(tmp_path / "bad.yaml", optimiser={"lr": 1e-6})
    found = compare_recipes([good, bad], budget, 2, tmp_path / "out")
    plan = recipe.RecipePlan.from_dict(read_json(tmp_path / "out" / "plan.json"), "plan")
    assert plan.tokens is not None
    for tokens, side in zip(plan.tokens, (found.first, found.second), strict=True):
        # A training has whole steps of 4 rows of 32 tokens; a row may end in a little padding.
        assert all(tokens - 2 * 128 <= run.tokens <= tokens for run in side.runs)
        if budget.endswith("flops"):
            assert all(1.8e8 < run.flops <= 2.05e8 for run in side.runs)
    assert found.verdict == "keep"


def test_a_budget_of_time_is_as_many_tokens_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig.from_yaml(written(tmp_path / "a.yaml"))
    data = prepare(config.data, tmp_path / "data")
    asked: list[float] = []

    def timed(configs: dict[str, TrainConfig], prepared: object, seconds: float) -> dict[str, Sweep]:
        asked.append(seconds)
        each = {"slow": 2e-3, "quick": 1e-3}
        return {name: Sweep(points=(), seconds_per_token=each[name], fixed=0.1) for name in configs}

    monkeypatch.setattr(recipe, "timed", timed)
    both = {"slow": config, "quick": config}
    found = recipe._tokens(both, dict.fromkeys(both, data), TrainingBudget.read("20s"))
    # 5 % of the 20 s measure the speed, and of the rest 5 % are for evaluations and saving.
    assert asked == [1.0, 1.0] and found == [9025, 18050]


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    good = written(tmp_path / "good.yaml")
    with pytest.raises(ConfigError, match="two are compared at a time"):
        compare_recipes([good], "1m", 1, tmp_path / "out")
    data = yaml.safe_load(Path(good).read_text())["data"]
    other = written(tmp_path / "other.yaml", data=data | {"seed": 5})
    with pytest.raises(ConfigError, match="hold out different text"):
        compare_recipes([good, other], "1m", 1, tmp_path / "out")
    with pytest.raises(TrainingError, match="10 steps take 1,280; give 13 times the budget"):
        compare_recipes([good, written(tmp_path / "same.yaml")], "100tok", 1, tmp_path / "out")


def test_equal_operations_give_a_wider_model_fewer_tokens(tmp_path: Path) -> None:
    narrow = TrainConfig.from_yaml(written(tmp_path / "narrow.yaml"))
    wide = TrainConfig.from_yaml(written(tmp_path / "wide.yaml", model=MODEL | {"intermediate_size": 640}))
    data = prepare(narrow.data, tmp_path / "data")
    configs, prepared = {"narrow": narrow, "wide": wide}, {"narrow": data, "wide": data}
    few, many = recipe._tokens(configs, prepared, TrainingBudget.read("1e9flops"))[::-1]
    assert few < 0.5 * many
    assert recipe._tokens(configs, prepared, TrainingBudget.read("9ktok")) == [9000, 9000]
