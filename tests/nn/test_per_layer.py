"""Per-layer inputs and shared keys: counts, groups, caches, packing and the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coterie.config import ConfigError, DataError, ModelConfig
from coterie.families import config_from_hf
from coterie.infer.cache import SequenceCache
from coterie.nn.forward_context import ForwardContext, Inserts
from coterie.nn.parameter_groups import parameter_groups
from coterie.nn.transformer import Transformer
from coterie.plan import count_parameters, kv_bytes_per_token
from coterie.plan.describe import describe
from coterie.plan.matrices import matrices
from tests.families.hf import _BASE, CONFIGS, VOCAB, randomise

CONFIG = config_from_hf(_BASE | CONFIGS["gemma4_text"])
EQUAL = config_from_hf(_BASE | CONFIGS["gemma4_text_keys_as_values"])
IDS = torch.randint(0, VOCAB, (31,), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def model() -> Transformer:
    model = Transformer(CONFIG).eval()
    randomise(model)
    return model


@pytest.mark.parametrize("config", [CONFIG, EQUAL], ids=["shared", "equal"])
def test_counts_and_matrices_are_those_of_the_model(config: ModelConfig) -> None:
    with torch.device("meta"):
        model = Transformer(config)
    assert count_parameters(config).total == sum(p.numel() for p in model.parameters())
    groups = parameter_groups(model)
    assert "extra" not in groups.values()
    for group in ("embedding", "attention", "dense"):
        built = sorted(
            tuple(p.shape) for n, p in model.named_parameters() if groups[n] == group and p.dim() == 2
        )
        assert built == sorted((m.rows, m.columns) for m in matrices(config) if m.group == group)


def test_groups_of_per_layer_inputs(model: Transformer) -> None:
    groups = parameter_groups(model)
    assert groups["per_layer.embed.weight"] == "embedding"
    assert groups["per_layer.projection.weight"] == groups["blocks.2.per_layer.gate.weight"] == "dense"


def test_shared_keys_are_kept_once(model: Transformer) -> None:
    # Layers 0 to 3 keep keys: 8 or 16 wide, two heads, keys and values, four bytes.
    assert kv_bytes_per_token(CONFIG, 4) == 4 * 2 * 2 * (8 + 16 + 8 + 8)
    with pytest.raises(KeyError):
        SequenceCache(CONFIG).layer(4)
    words = " ".join(describe(CONFIG).oddities)
    assert "keys and values of an earlier layer: layers 4-6" in words and "input of 12 numbers" in words


def test_two_sequences_with_caches_equal_each_alone(model: Transformer) -> None:
    def run(ids: list[Tensor], caches: list[SequenceCache]) -> list[Tensor]:
        starts = [cache.length for cache in caches]
        context = ForwardContext.packed([len(part) for part in ids], starts)
        return list(model(torch.cat(ids), context, caches).split([len(part) for part in ids]))

    with torch.no_grad():
        a, b = IDS[:20], IDS[20:]
        wanted = [model(part, ForwardContext.packed([len(part)])) for part in (a, b)]
        caches = [SequenceCache(CONFIG), SequenceCache(CONFIG)]
        first, second = run([a[:11], b[:3]], caches), run([a[11:12], b[3:]], caches)
        forked = caches[0].fork()
        last = run([a[12:]], [forked])
        got = [torch.cat([first[0], second[0], *last]), torch.cat([first[1], second[1]])]
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


def test_gradients_are_the_same_when_layers_run_again(model: Transformer) -> None:
    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        model.logits(model(IDS, ForwardContext.packed([17, 14]))).square().mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    assert plain.keys() == dict(model.named_parameters()).keys()
    model.recompute = True
    try:
        again = gradients()
    finally:
        model.recompute = False
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_factors_of_blocks_start_at_one_and_travel_with_training() -> None:
    fresh = Transformer(CONFIG)
    fresh.blocks[2].output_scale.fill_(0.3)  # type: ignore[union-attr, operator]
    assert set(fresh.training_buffers()) == {f"blocks.{layer}.output_scale" for layer in range(7)}
    fresh.initialise()
    assert all(bool(scale == 1) for scale in fresh.training_buffers().values())


def test_inserted_features_are_refused(model: Transformer) -> None:
    inserts = Inserts(torch.tensor([1]), torch.zeros(1, CONFIG.width))
    with pytest.raises(DataError, match="give ids only"):
        model(IDS, ForwardContext.packed([len(IDS)], inserts=inserts))


@pytest.mark.parametrize(
    ("layer", "path", "value", "words"),
    [
        (4, "attention.keys_of", 5, "earlier layer that has its own keys"),
        (6, "attention.keys_of", 4, "earlier layer that has its own keys"),
        (4, "attention.keys_of", 2, "'mask' is unlike"),
        (4, "attention.head_dim", 20, "'head_dim' is unlike"),
        (0, "per_layer_width", None, "the same in all layers"),
    ],
)
def test_settings_that_do_not_fit_each_other(layer: int, path: str, value: object, words: str) -> None:
    data = CONFIG.to_dict()
    node = data["blocks"][layer]
    *parents, last = path.split(".")
    for part in parents:
        node = node[part]
    node[last] = value
    with pytest.raises(ConfigError, match=words):
        ModelConfig.from_dict(data)
