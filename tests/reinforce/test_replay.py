"""Routing replay: in bfloat16 sampler and trainer choose other experts, with a replay they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from coterie.checkpoints.directory import load_model
from coterie.nn.recording import Recorder
from coterie.nn.transformer import Transformer
from coterie.reinforce.mismatch import measure_mismatch
from coterie.reinforce.replay import with_sampler_routing, with_trainer_routing
from coterie.reinforce.rollouts import Rollout, Sampler
from coterie.tasks import load_task
from coterie.train.batch import collate
from coterie.train.row_logprobs import row_logprobs
from tests.recipes.tuned import base


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replay")


def sampled(folder: Path, dtype: str, count: int = 24) -> tuple[Transformer, list[Rollout]]:
    """A mixture with random weights, and replies of which the routing is recorded."""
    loaded = load_model(base(folder, "qwen3_moe"), dtype)
    assert loaded.tokenizer is not None
    sampler = Sampler(loaded.model, loaded.tokenizer, load_task("parity"), 24)
    problems = [sampler.family.problem(9, at) for at in range(count)]
    groups = sampler.groups(problems, 2, (0, 1), routing=True)
    return loaded.model, [rollout for group in groups for rollout in group.rollouts]


def test_bfloat16_routes_otherwise_until_it_is_replayed(folder: Path) -> None:
    model, rollouts = sampled(folder, "bfloat16")
    live = [rollout.row(1.0) for rollout in rollouts]
    before = measure_mismatch(model, list(zip(rollouts, live, strict=True)))
    rows = with_sampler_routing(model, live, rollouts)
    after = measure_mismatch(model, list(zip(rollouts, rows, strict=True)))
    assert before.flips is not None and before.flips > 0, "nothing to replay: take another model"
    assert after.flips == 0 and after.largest <= before.largest


def test_in_float32_a_replay_changes_nothing(folder: Path) -> None:
    model, rollouts = sampled(folder, "float32", 4)
    live = [rollout.row(1.0) for rollout in rollouts]
    expected = [row_logprobs(model, row) for row in live]
    for rows in (with_sampler_routing(model, live, rollouts), with_trainer_routing(model, live)):
        assert all(
            torch.equal(row_logprobs(model, row), was) for row, was in zip(rows, expected, strict=True)
        )
    found = measure_mismatch(model, list(zip(rollouts, live, strict=True)))
    assert found.flips == 0 and found.largest < 1e-4


def test_a_replay_outlasts_an_update(folder: Path) -> None:
    """After the routers have moved, replayed rows keep their experts and still teach the routers."""
    model, rollouts = sampled(folder, "float32", 4)
    rows = with_trainer_routing(model, [rollout.row(1.0) for rollout in rollouts])
    with torch.no_grad():
        for _, router in model.routers():
            router.weight.add_(torch.randn(router.weight.shape) * router.weight.std())
    batch, recorder = collate(rows), Recorder()
    context = batch.context
    object.__setattr__(context, "recorder", recorder)
    model(batch.ids_T, context).square().sum().backward()
    for layer, router in model.routers():
        expected = np.concatenate([row.streams[f"experts.{layer}"] for row in rows])
        assert np.array_equal(recorder.routing[layer].ids_TK.numpy(), expected)
        assert router.weight.grad is not None and router.weight.grad.abs().sum() > 0
    live = with_trainer_routing(model, [rollout.row(1.0) for rollout in rollouts])
    assert any(
        not np.array_equal(a.streams[name], b.streams[name])
        for a, b in zip(rows, live, strict=True)
        for name in a.streams
        if name.startswith("experts.")
    ), "the routers did not move enough for this test"
