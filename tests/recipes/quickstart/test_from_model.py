"""`coterie quickstart --from`: the pair starts as one function; what cannot be compared is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.directory import load_model, save_model
from coterie.cli.main import app
from coterie.config import ConfigError
from coterie.config.run import TrainConfig
from coterie.data.build import Prepared
from coterie.families import config_from_hf
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from coterie.plan.counts import count_parameters
from coterie.recipes.quickstart import run
from coterie.recipes.quickstart.from_model import pair_from
from coterie.recipes.quickstart.lr_sweep import timed
from coterie.recipes.quickstart.plan import Plan
from coterie.results.quickstart import QuickstartResults
from coterie.text.tokenizer import Tokenizer
from tests.arithmetic import assert_model_close

SHAPE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}


def write(path: Path, **changes: object) -> str:
    tokenizer = Tokenizer.train(["the quick brown fox jumps over the lazy dog"] * 4, vocab_size=300)
    model = Transformer(config_from_hf(SHAPE | {"vocab_size": tokenizer.vocab_size} | changes))
    model.initialise(0)
    save_model(path, model, tokenizer)
    return str(path)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("dense") / "model")


def plan(start: str) -> Plan:
    return Plan(minutes=1, data=None, seed=0, threads=1, start=start)


def test_both_are_the_same_function_of_equal_active_size(dense: str, tmp_path: Path) -> None:
    configs = pair_from(plan(dense), dense, tmp_path)
    assert configs["dense"].model == {"from": dense}
    models = [load_model(configs[name].model["from"], dtype="float32").model for name in ("dense", "moe")]
    ids = torch.arange(40)
    with torch.no_grad():
        expected, found = (m.logits(m(ids, ForwardContext.packed([40]))) for m in models)
    assert_model_close(models[1].config, found, expected, 40)
    active = [count_parameters(model.config).active_core for model in models]
    routers = 2 * 8 * 32
    assert active[1] - active[0] == routers, "nothing but the routers is added to what a token uses"
    same = ("data", "batch_rows", "optimiser", "schedule", "seed")
    assert all(getattr(configs["moe"], name) == getattr(configs["dense"], name) for name in same)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
            "mixture of experts already",
        ),
        ({"max_position_embeddings": 64}, "has 64 positions"),
        ({"intermediate_size": 63}, "cannot be cut into 2 parts"),
    ],
)
def test_refusals_take_one_line(changes: Mapping[str, object], message: str, tmp_path: Path) -> None:
    start = write(tmp_path / "model", **changes)
    with pytest.raises(ConfigError, match=message) as error:
        pair_from(plan(start), start, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_whole_comparison(dense: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest training, through the command: both trained alike, and a verdict on this model."""

    def short(plan: Plan, configs: Mapping[str, TrainConfig], prepared: Prepared, _: float) -> Plan:
        return plan.model_copy(update={"sweeps": timed(configs, prepared, 60), "tokens": 12 * 4 * 256})

    monkeypatch.setattr(run, "_decide", short)
    text = tmp_path / "text"
    text.mkdir()
    for number in range(60):
        (text / f"{number}.txt").write_text(f"the fox number {number} " + "jumps over the lazy dog " * number)
    words = ["quickstart", "--from", dense, "--data", str(text), "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, [*words, "--threads", "1"], catch_exceptions=False)
    found = QuickstartResults.read(tmp_path / "out" / "results.json")
    assert json.loads(done.stdout)["start"] == dense == found.start
    assert found.moe.tokens == found.dense.tokens > 11 * 4 * 256  # rows end with documents
    assert found.moe.lr == found.dense.lr and found.routing.top_k == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Is a mixture worth it for" in page and "Both start as the same function" in page
    assert (
        Checkpoint.open(found.moe.path).config.is_moe and not Checkpoint.open(found.dense.path).config.is_moe
    )
