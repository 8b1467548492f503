"""Models around a text model: the text model inside equals transformers, and what is around it travels."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from coterie.adapters.attach import attach
from coterie.adapters.files import save_adapter
from coterie.adapters.merge import merge_checkpoint
from coterie.adapters.peft_names import Names
from coterie.checkpoints.convert import convert_directory
from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.inspect import inspect_model
from coterie.config import AdapterConfig, ConfigError, CoterieError
from coterie.families import FAMILIES, config_from_hf, config_to_hf, quantisation_of, unwrapped
from coterie.families.contradictions import contradictions
from coterie.nn.forward_context import ForwardContext
from coterie.plan.describe import describe
from tests.adapters.test_attach import randomise_factors
from tests.arithmetic import assert_model_close
from tests.checkpoints.quantised.packers import packed
from tests.checkpoints.quantised.test_compressed import config as compressed
from tests.families.hf import _BASE, CONFIGS, VOCAB, randomise
from tests.families.hf_sandwich import MISTRAL4

_LLAMA4_VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 28, "patch_size": 14, "vision_output_dim": 16, "projector_input_dim": 16,
    "projector_output_dim": 16, "rope_theta": 100.0,
}  # fmt: skip
_PIXTRAL = {
    "model_type": "pixtral", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "image_size": 28, "patch_size": 14, "head_dim": 8,
}  # fmt: skip
_MOONVIT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "pos_emb_height": 4, "pos_emb_width": 4,
}  # fmt: skip
_SIGLIP = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
_GEMMA4 = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 24, "head_dim": 8, "patch_size": 4, "position_embedding_size": 16,
}  # fmt: skip
_UNIFIED = {
    "patch_size": 2, "pooling_kernel_size": 2, "mm_embed_dim": 16, "mm_posemb_size": 8,
    "output_proj_dims": 16,
}  # fmt: skip
_GLIMMER = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "pos_emb_height": 4, "pos_emb_width": 4, "max_position_embeddings": 16,
}  # fmt: skip
_GLIMMER_AROUND = {"out_hidden_size": 64, "projector_hidden_size": 24, "tie_word_embeddings": False}
_QWEN = {
    "hidden_size": 16, "depth": 2, "num_heads": 2, "intermediate_size": 24, "patch_size": 4,
    "out_hidden_size": 32, "num_position_embeddings": 16,
}  # fmt: skip
_UNTIED = {"tie_word_embeddings": False}
# Text models that transformers has inside of another one only.
TEXTS: dict[str, dict[str, Any]] = {
    "mistral4": MISTRAL4,
    "muse_glimmer_text": {
        "model_type": "muse_glimmer_text", "intermediate_size": 48, "head_dim": 12, "sliding_window": 5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}, "qk_scale_factor": 1.7,
        "output_multiplier": 0.6, "final_logit_softcapping": 3.0, "post_norm_eps": 0.05,
        "num_hidden_layers": 5,
    },
}  # fmt: skip
# name -> (text model in hf.CONFIGS or TEXTS, keys around it)
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama4": ("llama4_scout", {"vision_config": _LLAMA4_VISION}),
    "mistral3": ("mistral", {"vision_config": _PIXTRAL} | _UNTIED),
    "qwen3_5": ("qwen3_5_text", {"vision_config": _QWEN}),
    "qwen3_5_moe": ("qwen3_5_moe_text", {"vision_config": _QWEN} | _UNTIED),
    "mistral3_fourth": ("mistral4", {"vision_config": _PIXTRAL} | _UNTIED),
    "mistral3_tied_ministral": ("ministral3", {"vision_config": _PIXTRAL, "tie_word_embeddings": True}),
    "mistral3_tied": ("mistral", {"vision_config": _PIXTRAL, "tie_word_embeddings": True}),
    "kimi_k25": (
        "deepseek_v3",
        {"vision_config": _MOONVIT, "projection_hidden_size": 16, "projection_layer_norm_eps": 1e-5}
        | _UNTIED,
    ),
    "gemma3": ("gemma3_text", {"vision_config": _SIGLIP, "mm_tokens_per_image": 4}),
    "gemma4": ("gemma4_text", {"vision_config": _GEMMA4, "audio_config": None}),
    "gemma4_unified": ("gemma4_unified_text", {"vision_config": _UNIFIED, "audio_config": None}),
    "muse_glimmer": ("muse_glimmer_text", {"vision_config": _GLIMMER} | _GLIMMER_AROUND),
}


def whole(name: str, path: Path) -> Any:
    """transformers' model of `WHOLE[name]`, randomised, and its directory at `path`."""
    inner, outer = WHOLE[name]
    text = _BASE | (CONFIGS | TEXTS)[inner] | {key: outer[key] for key in _UNTIED if key in outer}
    text = copy.deepcopy(text)  # transformers writes into the parts
    config = AutoConfig.for_model(
        name.partition("_tied")[0].partition("_fourth")[0], text_config=text, **outer
    )
    config._attn_implementation = "eager"
    model = AutoModelForImageTextToText.from_config(config).float().eval()
    model.config.text_config._attn_implementation = "eager"
    randomise(model)
    model.save_pretrained(path)
    if name == "kimi_k25":  # transformers 5.23 renames its own layers on the way out; as released:
        edit(path, {_as_released(key): value for key, value in stored(path).items()})
    return model


def _as_released(name: str) -> str:
    return name.replace("language_model.model.blocks.", "language_model.model.layers.").replace(
        "model.mm_projector.", "mm_projector."
    )


def stored(path: Path) -> dict[str, Tensor]:
    return load_file(path / "model.safetensors")


def edit(path: Path, tensors: dict[str, Tensor] | None = None, **keys: Any) -> None:
    """Other tensors, and other keys of config.json (None takes a key away)."""
    if tensors is not None:
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
    config = json.loads((path / "config.json").read_text()) | keys
    kept = {key: value for key, value in config.items() if value is not None}
    (path / "config.json").write_text(json.dumps(kept))


@pytest.mark.parametrize("name", WHOLE)
def test_the_text_model_inside_equals_transformers_and_the_rest_travels(name: str, tmp_path: Path) -> None:
    reference = whole(name, tmp_path / "a")
    model = load_model(tmp_path / "a").model
    ids = torch.randint(0, VOCAB, (23,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model.logits(model(ids, ForwardContext.packed([23])))
        theirs = reference(input_ids=ids[None]).logits[0]
    assert theirs.std() > 0.3
    assert_model_close(model.config, ours, theirs, tokens=23)
    save_model(tmp_path / "b", model)
    before, after = stored(tmp_path / "a"), stored(tmp_path / "b")
    carried = FAMILIES[model.config.family].carried
    assert before.keys() == after.keys() and any(key.startswith(carried) for key in before)
    assert all(torch.equal(before[key], after[key]) for key in before)
    _, info = type(reference).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    old, new = (json.loads((tmp_path / side / "config.json").read_text()) for side in "ab")
    inner = old.pop("text_config")
    del old["transformers_version"], old["architectures"]
    assert [key for key in old if old[key] != new.get(key)] == []
    # Llama 4's as lists; Kimi's rope with every setting, and without the layer that its files do not hold.
    said_otherwise = {"interleave_moe_layer_step", "no_rope_layer_interval", "rope_parameters"}
    said_otherwise |= {"num_nextn_predict_layers"}
    assert inner["rope_parameters"].items() <= new["text_config"]["rope_parameters"].items()
    assert {key for key in inner if inner[key] != new["text_config"].get(key)} <= said_otherwise
    assert contradictions(old | {"text_config": inner}) == []


@pytest.mark.parametrize("name", WHOLE)
def test_every_number_is_counted(name: str, tmp_path: Path) -> None:
    reference = whole(name, tmp_path)
    biases = [b for key, b in reference.named_buffers() if key.endswith("e_score_correction_bias")]
    found = describe(load_model(tmp_path).model.config)
    around = ("vision", "multi_modal") if found.vision is None else ()  # an encoder whose size is not known
    counted = [p for name, p in reference.named_parameters() if not any(part in name for part in around)]
    assert found.everything == sum(tensor.numel() for tensor in [*counted, *biases])


@pytest.mark.parametrize("name", WHOLE)
def test_places_of_adapters_are_modules_of_transformers(name: str, tmp_path: Path) -> None:
    reference = whole(name, tmp_path)
    modules = {path for path, _ in reference.named_modules()}
    parameters = {path for path, _ in [*reference.named_parameters(), *reference.named_buffers()]}
    parameters |= {"lm_head.weight"}
    names = Names(config_from_hf(reference.config.to_dict()))
    assert names.only_whole_names and len(names.places) > 20
    assert {place.path for place in names.places.values()} <= modules | {"lm_head"}
    assert set(names.parameters.values()) <= parameters


@pytest.mark.parametrize("name", ["mistral3", "kimi_k25", "gemma4"])
def test_peft_puts_our_adapter_into_the_text_model(name: str, tmp_path: Path) -> None:
    reference = whole(name, tmp_path / "base")
    model = load_model(tmp_path / "base").model
    attach(model, AdapterConfig(rank=3, train={"head": "lora"}))
    randomise_factors(model)
    save_adapter(tmp_path / "adapter", model, tmp_path / "base")
    ids = torch.randint(0, VOCAB, (1, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = reference(input_ids=ids).logits[0]
        theirs = PeftModel.from_pretrained(reference, str(tmp_path / "adapter"))(input_ids=ids).logits[0]
        ours = model.logits(model(ids[0], ForwardContext.packed([11])))
    assert (theirs - before).abs().max() > 0.1
    assert_model_close(model.config, ours, theirs, tokens=11, passes=2)


@pytest.mark.parametrize("name", ["llama4", "mistral3", "mistral3_tied", "gemma4"])
def test_a_merge_is_proven_and_keeps_what_is_around(name: str, tmp_path: Path) -> None:
    whole(name, tmp_path / "base")
    model = load_model(tmp_path / "base").model
    train = {"embedding": "full"} if name.endswith("tied") else {"head": "lora"}
    attach(model, AdapterConfig(rank=3, train=train))
    randomise_factors(model)
    save_adapter(tmp_path / "adapter", model, tmp_path / "base")
    merge_checkpoint(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    before, after = stored(tmp_path / "base"), stored(tmp_path / "out")
    carried = FAMILIES[model.config.family].carried
    assert before.keys() == after.keys()
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert {key for key in before if key.startswith(carried)} <= same < before.keys()


def test_images_keep_their_dtype_when_the_text_is_saved_in_another(tmp_path: Path) -> None:
    whole("llama4", tmp_path / "a")
    save_model(tmp_path / "b", load_model(tmp_path / "a", dtype="bfloat16").model)
    before, after = stored(tmp_path / "a"), stored(tmp_path / "b")
    name = next(name for name in before if name.startswith("vision_model."))
    assert torch.equal(before[name], after[name]) and after[name].dtype == torch.float32
    assert after["language_model.model.norm.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["llama4", "mistral3"])
def test_a_directory_without_its_image_encoder_is_not_whole(name: str, tmp_path: Path) -> None:
    whole(name, tmp_path)
    tensors = {k: v for k, v in stored(tmp_path).items() if k.startswith("language_model.")}
    edit(tmp_path, tensors)
    with pytest.raises(CoterieError, match=r"no tensor beginning with vision_"):
        load_model(tmp_path)
    edit(tmp_path, vision_config=None)
    with pytest.raises(CoterieError, match="'vision_config' is missing; a text-only model has"):
        load_model(tmp_path)


def test_kimis_experts_in_four_bits_are_read_where_text_config_says_so(tmp_path: Path) -> None:
    whole("kimi_k25", tmp_path)
    generator, tensors, meant = torch.Generator().manual_seed(7), {}, {}
    for name, tensor in stored(tmp_path).items():
        if ".experts." in name:
            parts, meant[name] = packed()(generator, *tensor.shape)
            stem = name.removesuffix(".weight")
            tensors |= {stem + ending: part.contiguous() for ending, part in parts.items()}
        else:
            tensors[name] = meant[name] = tensor
    settings = compressed("pack-quantized") | {
        "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|down)_proj.*"]
    }
    text = json.loads((tmp_path / "config.json").read_text())["text_config"]
    edit(tmp_path, tensors, text_config=text | {"quantization_config": settings})
    loaded = load_model(tmp_path)
    assert (
        loaded.checkpoint.quantised
        and inspect_model(str(tmp_path)).directory.quantised == settings["quant_method"]
    )
    experts = loaded.model.blocks[1].ffn.experts
    gate, down = (
        meant[f"language_model.model.layers.1.mlp.experts.2.{part}_proj.weight"] for part in ("gate", "down")
    )
    assert torch.equal(experts.gate_up.weight[2, : len(gate)], gate) and torch.equal(
        experts.down.weight[2], down
    )
    save_model(tmp_path / "b", loaded.model)
    after = stored(tmp_path / "b")
    assert after.keys() == meant.keys() and all(torch.equal(after[name], meant[name]) for name in meant)
    assert quantisation_of(json.loads((tmp_path / "b" / "config.json").read_text())) is None


def test_names_of_transformers_in_memory_are_read_and_the_rest_keeps_its_own(tmp_path: Path) -> None:
    reference = whole("mistral3", tmp_path / "a")
    expected = load_model(tmp_path / "a").model
    edit(tmp_path / "a", {key: value.contiguous() for key, value in reference.state_dict().items()})
    model = load_model(tmp_path / "a").model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    save_model(tmp_path / "b", model)
    names = stored(tmp_path / "b").keys()
    assert "language_model.lm_head.weight" in names and "model.vision_tower.ln_pre.weight" in names


def test_the_text_model_alone_is_a_directory_too(tmp_path: Path) -> None:
    whole("mistral3", tmp_path / "a")
    with pytest.raises(ConfigError, match="cannot carry the image encoder"):
        convert_directory(tmp_path / "a", tmp_path / "b", "mistral")
    receipt = convert_directory(tmp_path / "a", tmp_path / "b", "mistral", drop=("vision",))
    assert receipt.family == ("mistral3", "mistral") and receipt.difference.max_logprob == 0
    inside, alone = load_model(tmp_path / "a").model, load_model(tmp_path / "b").model
    assert unwrapped(inside.config).blocks == alone.config.blocks and not alone.carried
    assert alone.config.family == "mistral" and "text_config" not in alone.config.extra
    assert unwrapped(alone.config) is alone.config
    with pytest.raises(ConfigError, match=r"holds an image encoder.*; use mistral"):
        convert_directory(tmp_path / "b", tmp_path / "c", "mistral3")


@pytest.mark.parametrize(("name", "text"), [("gemma4", "gemma4_text"), ("qwen3_5", "qwen3_5_text")])
def test_a_text_model_that_carries_tensors_itself_leaves_the_encoder(
    name: str, text: str, tmp_path: Path
) -> None:
    whole(name, tmp_path / "a")
    with pytest.raises(ConfigError, match="cannot carry the image encoder"):
        convert_directory(tmp_path / "a", tmp_path / "b", text)
    convert_directory(tmp_path / "a", tmp_path / "b", text, drop=("vision",))
    assert load_model(tmp_path / "b").model.config.family == text
    assert not any("vision" in key or "visual" in key for key in stored(tmp_path / "b"))


def test_the_files_decide_whether_the_head_is_the_embedding(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers 5 says tied wherever nobody told it otherwise, and takes the head that the files have."""
    reference = whole("mistral3", tmp_path)
    edit(tmp_path, tie_word_embeddings=True)
    model = load_model(tmp_path).model
    assert not model.config.tie_embeddings and "the files have a head, which is used" in caplog.text
    assert torch.equal(model.head_weight, reference.lm_head.weight)
    theirs = type(reference).from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(theirs.lm_head.weight, reference.lm_head.weight)


def test_the_key_outside_decides_and_a_difference_is_named() -> None:
    data = {"model_type": "mistral3", "vision_config": {}, "tie_word_embeddings": True}
    data["text_config"] = _BASE | CONFIGS["mistral"] | _UNTIED
    assert config_from_hf(data).tie_embeddings
    assert contradictions(data) == [
        "'tie_word_embeddings' True outside of text_config decides; the one in it is ignored"
    ]
    assert config_to_hf(config_from_hf(data))["text_config"]["tie_word_embeddings"] is True
    del data["tie_word_embeddings"]
    assert not config_from_hf(data).tie_embeddings
    data["quantization_config"] = {}
    data["text_config"] |= {"quantization_config": {"quant_method": "gptq"}}
    assert quantisation_of(data) == {"quant_method": "gptq"}
    assert "quantization_config" not in config_to_hf(config_from_hf(data))["text_config"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"text_config": None}, "'text_config' is missing; a text-only model has model_type mistral"),
        ({"text_config": []}, "'text_config' is missing"),
        ({"text_config": {"model_type": "qwen2"}}, "text_config: model_type 'qwen2' is not supported here"),
        ({"text_config": {"vocab_size": 8}}, "text_config: .* is missing"),
        ({"vision_config": None}, "'vision_config' is missing"),
    ],
)
def test_what_a_wrapper_refuses(keys: dict[str, Any], message: str) -> None:
    text = _BASE | CONFIGS["mistral"]
    data = {"model_type": "mistral3", "vision_config": {"hidden_size": 8}, "text_config": text} | keys
    with pytest.raises(ConfigError, match=message) as caught:
        config_from_hf(data)
    assert "\n" not in str(caught.value)


def test_another_text_model_inside_is_refused_on_the_way_out(tmp_path: Path) -> None:
    whole("llama4", tmp_path / "a")
    with pytest.raises(ConfigError, match=r"the text model of a mistral3 checkpoint is .*, not llama4_text"):
        convert_directory(tmp_path / "a", tmp_path / "b", "mistral3")
