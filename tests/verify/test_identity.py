"""`verify` must fail every way in which a published tool has written another model than it said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from coterie.checkpoints.directory import save_model
from coterie.config import CheckpointError, CoterieError
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from coterie.proof.texts import TEXTS
from coterie.text.tokenizer import Tokenizer
from coterie.verify.identity import Verdict, compare, open_side
from tests.families import hf
from tests.nn.test_transformer import SMALL

Tensors = dict[str, Tensor]
# Square experts: a transposed matrix then has the right shape, and only its outputs tell.
SQUARE = {
    "qwen3_moe": SMALL | {"moe_intermediate_size": 16, "vocab_size": 320, "max_position_embeddings": 40},
    "llama4_text": hf._BASE
    | hf.CONFIGS["llama4_scout"]
    | {"intermediate_size": 32, "vocab_size": 320, "max_position_embeddings": 40},
}
FAMILY = {"per expert": "qwen3_moe", "fused": "llama4_text"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each layout a base, and a tuned model whose experts and attention moved a little."""
    root = tmp_path_factory.mktemp("identity")
    tokenizer = Tokenizer.train([text * 3 for text in TEXTS], 320)
    for layout, name in FAMILY.items():
        model = Transformer(config_from_hf(SQUARE[name]))
        hf.randomise(model)
        save_model(root / layout / "base", model, tokenizer)
        generator = torch.Generator().manual_seed(1)
        for key, parameter in model.named_parameters():
            if "experts" in key or "attention" in key:
                parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        save_model(root / layout / "tuned", model, tokenizer)
        save_model(root / layout / "half", model, tokenizer, dtype="bfloat16")
    return root


def experts(tensors: Tensors, part: str = "") -> list[str]:
    return [name for name in tensors if ".experts." in name and part in name]


def zero_experts(tuned: Tensors, base: Tensors) -> None:
    for name in experts(tuned, "down"):
        tuned[name] = torch.zeros_like(tuned[name])


def zero_one(tuned: Tensors, base: Tensors) -> None:
    name = experts(tuned, "down")[1]
    if tuned[name].dim() == 3:
        tuned[name][1] = 0
    else:
        tuned[name] *= 0


def transpose(tuned: Tensors, base: Tensors) -> None:
    for name in experts(tuned, "down"):
        tuned[name] = tuned[name].transpose(-1, -2).contiguous()


def permute(tuned: Tensors, base: Tensors) -> None:
    """Experts in another order, the router in the old one."""
    first = [name for name in experts(tuned) if ".1." in name.split("experts")[0]]
    for name in first:
        if tuned[name].dim() == 3:
            tuned[name] = tuned[name].roll(1, 0)
    numbered = [name for name in first if tuned[name].dim() == 2]
    before = {name: tuned[name] for name in numbered}
    for name in numbered:
        head, tail = name.split(".experts.")
        number, rest = tail.split(".", 1)
        tuned[name] = before[f"{head}.experts.{(int(number) + 1) % 4}.{rest}"].clone()


def swap_gate_up(tuned: Tensors, base: Tensors) -> None:
    for name in experts(tuned, "gate_up"):
        tuned[name] = torch.cat(tuned[name].chunk(2, -1)[::-1], -1)
    for name in experts(tuned, "gate_proj"):
        up = name.replace("gate_proj", "up_proj")
        tuned[name], tuned[up] = tuned[up], tuned[name]


def base_back(tuned: Tensors, base: Tensors) -> None:
    tuned.update(base)


def experts_base_back(tuned: Tensors, base: Tensors) -> None:
    """Attention merged, experts forgotten."""
    tuned.update({name: base[name] for name in experts(tuned)})


def most_base_back(tuned: Tensors, base: Tensors) -> None:
    """All expert tensors but the first fell back to the base."""
    tuned.update({name: base[name] for name in experts(tuned)[1:]})


def double_scale(tuned: Tensors, base: Tensors) -> None:
    for name in experts(tuned):
        tuned[name] = base[name] + 2 * (tuned[name] - base[name])


def wrong_order_of_changes(tuned: Tensors, base: Tensors) -> None:
    """Each expert's change added to its neighbour."""
    names = experts(tuned, "down")
    changes = [tuned[name] - base[name] for name in names]
    if changes[0].dim() == 3:
        changes = [change.roll(1, 0) for change in changes]
    else:
        changes = changes[1:] + changes[:1]
    for name, change in zip(names, changes, strict=True):
        tuned[name] = base[name] + change


def scaled(tuned: Tensors, base: Tensors) -> None:
    tuned["model.layers.0.self_attn.o_proj.weight"] *= 1.25


def fresh_router(tuned: Tensors, base: Tensors) -> None:
    """A tensor that the loader did not know started afresh."""
    name = next(name for name in tuned if name.endswith(("gate.weight", "router.weight")))
    tuned[name] = torch.randn(tuned[name].shape, generator=torch.Generator().manual_seed(5)) * 0.1


BUGS: dict[str, tuple[Callable[[Tensors, Tensors], None], str]] = {
    "zeroed experts": (zero_experts, "all zeros in B"),
    "one zeroed expert": (zero_one, "all zeros in B"),
    "transposed": (transpose, "transposed in B"),
    "permuted": (permute, ""),
    "gate and up exchanged": (swap_gate_up, ""),
    "base written back": (base_back, "differs by"),
    "experts' base written back": (experts_base_back, "differs by"),
    "all but one written back": (most_base_back, "differs by"),
    "double scale": (double_scale, "differs by"),
    "changes of other experts": (wrong_order_of_changes, "differs by"),
    "a scaled matrix": (scaled, "times 1.25"),
    "router never loaded": (fresh_router, "differs by"),
}


def broken(folder: Path, layout: str, tmp_path: Path, change: Callable[[Tensors, Tensors], None]) -> Path:
    """A copy of the tuned model, damaged on disk."""
    path = tmp_path / "broken"
    shutil.copytree(folder / layout / "tuned", path)
    (path / "coterie.json").unlink()
    tensors = load_file(path / "model.safetensors")
    change(tensors, load_file(folder / layout / "base" / "model.safetensors"))
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def verdict(a: Path, b: Path, base: Path | None = None, **options: object) -> Verdict:
    origin = open_side(str(base)) if base is not None else None
    return compare(open_side(str(a)), open_side(str(b)), origin, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", FAMILY)
@pytest.mark.parametrize("bug", BUGS)
def test_every_historical_bug_fails(folder: Path, tmp_path: Path, bug: str, layout: str) -> None:
    change, words = BUGS[bug]
    found = verdict(folder / layout / "tuned", broken(folder, layout, tmp_path, change))
    assert not found.same
    assert "log-probabilities differ" in found.reasons[0], "outputs alone must tell"
    assert found.tensors is not None and found.tensors.first is not None and words in found.tensors.what
    if bug == "permuted":
        assert "what A calls" in found.tensors.what or "another order" in found.tensors.what
    if bug == "gate and up exchanged":
        assert "up_proj" in found.tensors.what or "halves" in found.tensors.what
    json.dumps(found.to_dict())


@pytest.mark.parametrize("layout", FAMILY)
def test_the_same_model_passes(folder: Path, tmp_path: Path, layout: str) -> None:
    tuned, half = folder / layout / "tuned", folder / layout / "half"
    same = broken(folder, layout, tmp_path, lambda _tuned, _base: None)
    found = verdict(tuned, same, folder / layout / "base")
    assert found.same and found.gravity == 1.0 and found.difference.max_logprob == 0 and not found.notes
    assert found.difference.top1 == 1 and set(found.difference.routing.values()) == {1.0}
    found = verdict(half, half)
    assert found.same and found.tolerance == 1e-4
    found = verdict(tuned, half, tolerance=1.0)
    assert found.same and found.tensors is not None
    assert found.tensors.differing == 0 and found.tensors.rounded == found.tensors.compared


@pytest.mark.parametrize(
    "bug", ["base written back", "experts' base written back", "all but one written back"]
)
def test_what_is_still_the_base_is_called_so(folder: Path, tmp_path: Path, bug: str) -> None:
    """Even where the tolerance is so wide that the outputs would pass."""
    root = folder / "per expert"
    path = broken(folder, "per expert", tmp_path, BUGS[bug][0])
    assert verdict(path, root / "tuned", tolerance=5.0).same
    found = verdict(path, root / "tuned", root / "base", tolerance=5.0)
    assert not found.same and found.gravity is not None and found.gravity < 0.8
    assert found.reasons[0].startswith("A is the base" if bug == "base written back" else "A lies between")
    assert any("differs by" in note for note in found.notes)


def test_dropped_experts_do_not_load(folder: Path, tmp_path: Path) -> None:
    def drop(tuned: Tensors, base: Tensors) -> None:
        for name in experts(tuned, ".3."):
            del tuned[name]

    path = broken(folder, "per expert", tmp_path, drop)
    with pytest.raises(CheckpointError, match=r"tensor\(s\) missing, the first is .*experts\.3"):
        verdict(folder / "per expert" / "tuned", path)


def test_an_expert_that_no_probe_reaches(folder: Path, tmp_path: Path) -> None:
    """Outputs cannot tell, tensors do; and the report says how many experts were out of sight."""

    def far(tuned: Tensors, base: Tensors) -> None:
        tuned["model.layers.1.mlp.gate.weight"][0] *= 0  # its score is never among the best

    one = broken(folder, "per expert", tmp_path, far)
    two = tmp_path / "two"
    shutil.copytree(one, two)
    tensors = load_file(two / "model.safetensors")
    (data := tmp_path / "data.txt").write_text("Water")
    first = verdict(one, two, data=str(data))
    layer, unused = next(iter(first.unreached.items()))
    assert first.same and unused > 0
    reached = set()
    for expert in range(4):
        changed = {name: value.clone() for name, value in tensors.items()}
        changed[f"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"] *= 0
        save_file(changed, two / "model.safetensors", metadata={"format": "pt"})
        found = verdict(one, two, data=str(data))
        assert not found.same
        if len(found.reasons) > 1:
            reached.add(expert)
    assert len(reached) == 4 - unused


def test_config_tokenizer_and_template_count(folder: Path, tmp_path: Path) -> None:
    root = folder / "per expert" / "tuned"
    path = broken(folder, "per expert", tmp_path, lambda _tuned, _base: None)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"norm_topk_prob": False}))
    found = verdict(root, path)
    assert not found.same and any("renormalize" in note for note in found.notes)
    (path / "config.json").write_text(json.dumps(config))
    (path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    found = verdict(root, path)
    assert found.reasons == ["the chat templates differ: conversations become different text"]
    shutil.copy(root / "chat_template.jinja", path)
    Tokenizer.train(["entirely other words " * 40], 300).save(path)
    (reason,) = verdict(root, path).reasons
    assert reason.startswith("the tokenizers differ: text 0 becomes ")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (path / name).unlink()
    found = verdict(root, path)
    assert found.same and found.notes == ["tokenizers not compared: B holds no tokenizer.json"]


def test_shapes_families_and_data(folder: Path, tmp_path: Path) -> None:
    qwen, llama = folder / "per expert" / "tuned", folder / "fused" / "tuned"
    found = verdict(qwen, llama)
    assert not found.same and "tensors not compared: A is qwen3_moe and B is llama4_text" in found.notes
    other = Transformer(config_from_hf(SQUARE["qwen3_moe"] | {"moe_intermediate_size": 8}))
    hf.randomise(other)
    save_model(tmp_path / "narrow", other)
    found = verdict(folder / "per expert" / "base", tmp_path / "narrow")
    assert found.tensors is not None and "has shape (16, 16) in A and (8, 16) in B" in found.tensors.what
    (tmp_path / "empty.txt").write_text(" ")
    (tmp_path / "some.txt").write_text("One text, and nothing else.")
    assert verdict(qwen, qwen, data=str(tmp_path / "some.txt")).difference.positions > 5
    with pytest.raises(CoterieError, match="no text"):
        verdict(qwen, qwen, data=str(tmp_path / "empty.txt"))
