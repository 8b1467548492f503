"""Routing reports: values by hand, a model against itself and its opposite, and the commands."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from coterie.checkpoints.directory import save_model
from coterie.cli.main import main
from coterie.config import ConfigError, ExpertSelection
from coterie.evaluate.routing.compare import (
    chosen_together,
    layer_routing,
    logit_kl,
    overlap,
    routing_report,
    weight_distance,
)
from coterie.nn.forward_context import ForwardContext
from coterie.nn.router import Routing
from coterie.nn.transformer import Transformer
from coterie.report.routing_page import render_routing
from coterie.results.routing import ExpertPair, RoutingRecord
from coterie.text.tokenizer import Tokenizer
from tests.adapters.test_attach import built
from tests.arithmetic import approx, assert_close, largest, mean_sums
from tests.evaluate.routing.support import documents
from tests.families.hf import _BASE, CONFIGS, randomise


def test_one_layers_figures_by_hand() -> None:
    counts = np.array([[8.0, 0.0, 0.0, 0.0], [0.0, 4.0, 4.0, 0.0]])
    pairs = np.zeros((4, 4))
    pairs[1, 1], pairs[2, 2], pairs[1, 2], pairs[2, 1] = 4, 4, 3, 3
    facts = layer_routing(counts, pairs, ["a", "b"])
    assert facts.share == [0.5, 0.25, 0.25, 0.0]
    assert facts.entropy == pytest.approx(1.5 * math.log(2) / math.log(4))
    assert facts.worst_overload == 2.0 and facts.max_vio == 1.0 and facts.dead == [3]
    assert facts.specialisation == pytest.approx(1.0)
    assert facts.together == chosen_together(pairs) == [ExpertPair(a=1, b=2, tokens=3, share=0.75)]


def test_drift_of_known_routings() -> None:
    scores = torch.zeros(3, 4)
    a = Routing(
        torch.tensor([[0, 1], [2, 3], [0, 2]]), torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.3, 0.1]]), scores
    )
    b = Routing(
        torch.tensor([[1, 0], [0, 1], [2, 3]]), torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]), scores
    )
    assert overlap(a, b).tolist() == [1.0, 0.0, 0.5]
    # third token: a puts .75 on 0 and .25 on 2, b puts .5 on 2 and .5 on 3
    assert weight_distance(a, b).tolist() == pytest.approx([0.0, 1.0, 0.75])


def test_a_model_against_itself_and_against_its_opposite() -> None:
    base, tuned = built("qwen3_moe"), built("qwen3_moe")
    same = routing_report(base, documents(), tuned)
    assert all(layer.overlap == 1.0 for layer in same.drift.layers.values())
    assert max(same.drift.logit_kl.values()) == 0.0
    assert same.models["base"] == same.models["tuned"]
    # 8 experts, 3 chosen: the negated router chooses the three lowest. Earlier layers and the embedding are
    # the same.
    with torch.no_grad():
        tuned.blocks[0].ffn.router.weight.neg_()
    moved = routing_report(base, documents(), tuned)
    assert moved.drift.layers[0].overlap == 0.0
    assert 0.0 < moved.drift.layers[3].overlap < 1.0
    assert min(moved.drift.logit_kl.values()) > 0.0
    assert moved.tokens == {"law": 137, "code": 58}
    page = render_routing(moved, "a <title>")
    assert (
        page.count("<svg") == 1 + 3
        and "a &lt;title&gt;" in page
        and "http" not in page.replace("www.w3.org", "")
    )
    assert "law" in page and "nan" not in page


def test_divergence_and_nats_against_whole_softmaxes() -> None:
    base, tuned = built("mixtral"), built("mixtral", seed=1)
    ids = documents()[0].ids
    with torch.no_grad():
        a, b = (m(torch.from_numpy(ids), ForwardContext.packed([len(ids)])) for m in (base, tuned))
        p, q = base.logits(a).softmax(-1), tuned.logits(b).softmax(-1)
        expected = (p * (p / q).log()).sum(-1)
        size = max(largest(p.log()), largest(q.log()))
        # a mean over the vocabulary
        assert_close(logit_kl(base, a, tuned, b), expected, *mean_sums(base.config), torch.float32, size)
        nats = -p.log()[range(len(ids) - 1), ids[1:]].mean()
    report = routing_report(base, documents()[:1])
    assert report.models["base"].nats_per_token["law"] == approx(float(nats), *mean_sums(base.config))


def test_models_that_do_not_match_are_refused() -> None:
    with pytest.raises(ConfigError, match="other experts in some layer"):
        routing_report(built("qwen3_moe"), documents(), built("olmoe"))


def test_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str, code: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["coterie", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        assert (stop.value.code or 0) == code
        return capsys.readouterr().out

    texts = ["the cat sees a red house and runs", "one two three four five six seven"] * 30
    for name, text in zip(("law.txt", "code.txt"), texts[:2], strict=True):
        (tmp_path / name).write_text("\n".join([text] * 9))
    tokenizer = Tokenizer.train(texts, vocab_size=300)
    from coterie.families import config_from_hf

    models = []
    for seed in (0, 1):
        model = Transformer(
            config_from_hf(_BASE | CONFIGS["qwen3_moe"] | {"vocab_size": tokenizer.vocab_size})
        )
        randomise(model, seed)
        models.append(str(tmp_path / f"m{seed}"))
        save_model(models[-1], model, tokenizer)
    law, code, found, chosen = (
        str(tmp_path / n) for n in ("law.txt", "code.txt", "profile.json", "experts.json")
    )
    run("profile", models[0], law, "-o", found)
    facts = json.loads(run("select", found, "--method", "hot", "--top", "0.25", "-o", chosen, "--json"))
    assert facts["experts"] == {
        "0": facts["experts"]["0"],
        "2": facts["experts"]["2"],
        "3": facts["experts"]["3"],
    }
    assert all(len(experts) == 2 for experts in ExpertSelection.from_file(chosen).experts.values())
    page = str(tmp_path / "r.html")
    told = run("routing", *models, "--data", law, "--data", code, "-o", page)
    assert "drift:" in told and "<svg" in Path(page).read_text()
    record = json.loads(run("routing", models[0], "--data", law, "--json", "-o", str(tmp_path / "r.json")))
    assert record == json.loads((tmp_path / "r.json").read_text()) and record["domains"] == ["law.txt"]
    assert RoutingRecord.from_dict(record).to_dict() == record
    run("routing", *models, "--data", law, "--min-overlap", "0.99", code=1)
