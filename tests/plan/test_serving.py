"""The bytes of a plan are those of the loaded model; what fits, and how often an expert is found."""

import copy
from pathlib import Path

import pytest

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.config import Precision
from coterie.plan.serving import PROGRAM, expert_bytes, forms_of, plan_serve, token_seconds
from tests.checkpoints.test_expert_files import written


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(written(tmp_path_factory.mktemp("plan"), "qwen3_moe"))


def test_the_bytes_are_those_of_the_model(checkpoint: Checkpoint) -> None:
    for dtype in ("float32", "bfloat16"):
        plan = plan_serve(checkpoint.config, 10**9, "none", 16, dtype=dtype)
        statistics = checkpoint.held_bytes(dtype, Precision()) - plan.always - plan.experts
        assert 0 <= statistics < 256 * checkpoint.config.num_layers  # of routers
    assert [plan_serve(checkpoint.config, 10**9, form, 16).fits for form in forms_of(None)] == ["memory"] * 3


def test_what_fits_and_how_often_an_expert_is_found(checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = copy.deepcopy(checkpoint.config)
    whole = plan_serve(config, 0, "none", 16, sequences=2)
    assert whole.fits == "no" and whole.cache == 2 * plan_serve(config, 0, "none", 16).cache
    half = PROGRAM + whole.always + whole.cache + whole.experts // 2
    plan = plan_serve(config, half, "none", 16, sequences=2)
    assert plan.fits == "disk" and plan.hits == pytest.approx(0.5)
    layers = [layer for layer, _ in config.moe_layers()]
    number = config.moe_layers()[0][1].router.num_experts
    uses = {layer: [3] * (number // 2) + [1] * (number // 2) for layer in layers}
    assert plan_serve(config, half, "none", 16, 2, uses=uses).hits == pytest.approx(0.75)
    chosen = sum(moe.router.top_k for _, moe in config.moe_layers())
    assert token_seconds(config, plan, 1.0, 0.5) == pytest.approx(1.0 + 0.25 * chosen)
    assert expert_bytes(config, plan) * number * len(layers) == plan.experts
