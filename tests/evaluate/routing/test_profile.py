"""Profiles and selections: values by hand, known routers, and ESFT's published choice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from coterie.config import ConfigError, ExpertSelection
from coterie.evaluate.routing.profile import Profile, profile, select
from coterie.nn.forward_context import ForwardContext
from coterie.nn.router import Routing
from tests.adapters.test_attach import built
from tests.arithmetic import approx, mean_sums
from tests.evaluate.routing.support import documents

# Token scores of the law task at layers 19 and 24 of DeepSeek-V2-Lite and the experts that ESFT trained with
# p = 0.2 (published with arXiv 2407.01906); scores below the twelfth are left out and stand here as one
# remainder.
LAW = {
    19: ({54: 881, 50: 771, 51: 597, 29: 338, 31: 337, 34: 294, 52: 256, 5: 246}, (50, 51, 54)),
    24: ({0: 1073, 29: 523, 56: 497, 62: 374, 33: 335, 28: 333, 21: 288, 59: 254}, (0, 29, 56)),
}


def whole_scores(best: dict[int, int]) -> tuple[int, ...]:
    rest = (10_000 - sum(best.values())) // (64 - len(best))
    return tuple(best.get(expert, rest) for expert in range(64))


def test_the_published_choice_of_esft() -> None:
    counts = {layer: whole_scores(best) for layer, (best, _) in LAW.items()}
    found = Profile(model="m", data=("law",), tokens=1, counts=counts, gate_mass=counts)
    assert select(found, "esft-token", p=0.2).experts == {layer: chosen for layer, (_, chosen) in LAW.items()}


def test_scores_are_taken_over_the_experts_of_a_layer() -> None:
    # Taken over layers, expert 0 of layer 0 would weigh 1 / (1 + 8) and expert 1 the rest.
    found = Profile(
        model="m",
        data=("d",),
        tokens=10,
        counts={0: (1, 9), 1: (8, 2)},
        gate_mass={0: (4.0, 1.0), 1: (0.1, 0.3)},
    )
    assert select(found, "esft-token", p=0.8).experts == {0: (1,), 1: (0,)}
    assert select(found, "esft-gate", p=0.8).experts == {0: (0,), 1: (0, 1)}
    assert select(found, "esft-gate", p=0.75).experts == {0: (0,), 1: (1,)}
    assert select(found, "hot", top=0.5).experts == {0: (1,), 1: (0,)}
    assert select(found, "random", top=0.5, seed=1) == select(found, "random", top=0.5, seed=1)
    drawn = {tuple(sorted(select(found, "random", top=0.5, seed=s).experts.items())) for s in range(20)}
    assert len(drawn) == 4
    for wrong in ({}, {"p": 0.0}, {"top": 0.5}, {"p": 0.5, "top": 0.5}, {"p": 1.1}):
        with pytest.raises(ConfigError, match="esft-gate takes --p"):
            select(found, "esft-gate", **wrong)


@pytest.mark.parametrize(
    "name", ["qwen3_moe", "deepseek_v3", "llama4_scout", "gpt_oss", "qwen3_next", "granitemoehybrid"]
)
def test_a_profile_is_what_the_routers_chose(name: str) -> None:
    model = built(name)
    found = profile(model, documents())
    counts = {layer: [0] * r.config.num_experts for layer, r in model.routers()}
    mass = {layer: [0.0] * r.config.num_experts for layer, r in model.routers()}

    def watch(layer: int):
        def hook(_m, _i, out: Routing) -> None:
            for ids, weights in zip(out.ids_TK.tolist(), out.weights_TK.tolist(), strict=True):
                for expert, weight in zip(ids, weights, strict=True):
                    counts[layer][expert] += 1
                    mass[layer][expert] += weight

        return hook

    for layer, router in model.routers():
        router.register_forward_hook(watch(layer))
    with torch.no_grad():
        for document in documents():
            model(torch.from_numpy(document.ids), ForwardContext.packed([len(document.ids)]))
    assert found.tokens == 195 and found.data == ("law", "code")
    assert {layer: list(c) for layer, c in found.counts.items()} == counts
    for layer, values in mass.items():
        assert found.gate_mass[layer] == approx(values, *mean_sums(model.config))


def test_selection_files_are_esfts_and_come_back(tmp_path: Path) -> None:
    chosen = ExpertSelection(experts={2: (5, 1), 1: (0,)})
    chosen.to_file(tmp_path / "e.json")
    data = json.loads((tmp_path / "e.json").read_text())
    assert data == {"experts": {"1": [0], "2": [1, 5]}, "shared_experts": False, "non_expert_modules": False}
    assert ExpertSelection.from_file(tmp_path / "e.json") == chosen
    (tmp_path / "bad.json").write_text('{"expert": {}}')
    with pytest.raises(ConfigError, match="did you mean 'experts'"):
        ExpertSelection.from_file(tmp_path / "bad.json")


def test_a_dense_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="is a dense model"):
        profile(built("qwen3"), documents())
