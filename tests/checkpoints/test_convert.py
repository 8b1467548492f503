"""Conversions: the same numbers in another layout, what is refused, what is counted, and nothing
half-written.
"""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from coterie.checkpoints import convert
from coterie.checkpoints.commit import read_manifest, verify_directory
from coterie.checkpoints.convert import RECEIPT, ConversionReceipt, convert_directory
from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.relabel import as_family
from coterie.checkpoints.tensor_reader import read_header
from coterie.config import CheckpointError, ConfigError, CoterieError
from coterie.families import FAMILIES, config_from_hf
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from coterie.proof.texts import TEXTS
from coterie.text.tokenizer import Tokenizer
from tests.arithmetic import assert_model_close
from tests.checkpoints.alive import one_at_a_time
from tests.families import hf
from tests.families.test_mtp import with_mtp
from tests.families.test_wrapper import whole

IDS = [5, 17, 3, 80, 41, 9, 2, 66, 31, 8, 12, 90]


def make(name: str, **changes: object) -> Transformer:
    settings = hf._BASE | hf.CONFIGS[name] | {"max_position_embeddings": 64} | changes
    model = Transformer(config_from_hf(AutoConfig.for_model(**copy.deepcopy(settings)).to_dict()))
    hf.randomise(model)
    return model


def stored(path: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in path.glob("*.safetensors") for name, value in load_file(file).items()}


def check_receipt(receipt: ConversionReceipt, out: Path) -> None:
    """In the directory, in its manifest, and true: the result loads and answers its probes."""
    written = json.loads((out / RECEIPT).read_text())
    assert written == json.loads(json.dumps(receipt.to_dict()))
    assert RECEIPT in read_manifest(out)["files"]
    verify_directory(out)
    load_model(out, check=True)


@pytest.mark.parametrize(
    "name", ["qwen3_moe", "mixtral", "llama4_scout", "deepseek_v3", "gpt_oss", "llama_tied_bias"]
)
def test_the_same_family_in_other_files_is_lossless(name: str, tmp_path: Path) -> None:
    save_model(tmp_path / "a", make(name), probes=True)
    receipt = convert_directory(tmp_path / "a", tmp_path / "b", shard_bytes=20_000)
    assert len(list((tmp_path / "b").glob("*.safetensors"))) > 2
    before, after = stored(tmp_path / "a"), stored(tmp_path / "b")
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert receipt.lossless and not receipt.changes and receipt.difference.max_logprob == 0
    assert receipt.tensors == len(after) and all(row["from"] == row["to"] for row in receipt.mapped)
    assert (
        read_manifest(tmp_path / "b")["converted_from"]["sha256"] == read_manifest(tmp_path / "a")["sha256"]
    )
    check_receipt(receipt, tmp_path / "b")


def test_progress_goes_to_the_logger_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "a", make("qwen3_moe"))
    with caplog.at_level(logging.INFO, "coterie"):
        convert_directory(tmp_path / "a", tmp_path / "b")
    assert caplog.messages[-1] == "reading the result back"
    caplog.clear()
    with caplog.at_level(logging.WARNING, "coterie"):
        convert_directory(tmp_path / "a", tmp_path / "c")
    assert not caplog.messages and capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "target"), [("llama", "mixtral"), ("qwen3", "qwen3_moe")])
def test_a_feed_forward_is_one_expert(name: str, target: str, tmp_path: Path) -> None:
    """There and back gives the same bits; transformers reads the form in between as the same function."""
    model = make(name)
    save_model(tmp_path / "a", model)
    receipt = convert_directory(tmp_path / "a", tmp_path / "b", target)
    assert receipt.lossless and receipt.family == (name, target)
    assert receipt.changes == ["each feed-forward became one expert"]
    added = next(row for row in receipt.mapped if not row["from"])
    assert next(iter(added["to"].values())) == 4 and "gate.weight" in next(iter(added["to"]))
    check_receipt(receipt, tmp_path / "b")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "b", attn_implementation="eager").float().eval()
    with torch.no_grad():
        expected = model.logits(model(torch.tensor(IDS), ForwardContext.packed([len(IDS)])))
        found = theirs(torch.tensor([IDS])).logits[0]
    assert_model_close(model.config, found, expected, len(IDS))
    back = convert_directory(tmp_path / "b", tmp_path / "c", name)
    assert back.changes == ["each single expert became a feed-forward"]
    before, after = stored(tmp_path / "a"), stored(tmp_path / "c")
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


REFUSED = [
    ("llama", "qwen3", "'blocks.0.attention.qk_norm' would be lost"),
    ("qwen3", "llama", "'blocks.0.attention.qk_norm' would be lost"),
    ("qwen3_moe", "mixtral", "has no dense layers|would be lost"),
    ("mixtral", "qwen3_moe", "would be lost"),
    ("mixtral", "llama", "has no experts"),
    ("olmoe", "qwen3_moe", "would be lost"),
    ("deepseek_v3", "deepseek_v2", "norm_topk_prob"),
    ("deepseek_v2", "qwen3_moe", "no latent attention"),
    ("gpt_oss", "mixtral", "would be lost"),
    ("llama4_scout", "llama4", "image encoder, which this model lacks"),
    ("llama_tied_bias", "mixtral", "would be lost|has no dense layers"),
]


@pytest.mark.parametrize(("name", "target", "message"), REFUSED)
def test_what_would_lose_something_is_refused(name: str, target: str, message: str, tmp_path: Path) -> None:
    save_model(tmp_path / "a", make(name))
    with pytest.raises(ConfigError, match=message) as error:
        convert_directory(tmp_path / "a", tmp_path / "b", target)
    assert "\n" not in str(error.value) and not (tmp_path / "b").exists()


def test_experts_that_are_not_alone_or_not_weighted_one_stay_experts() -> None:
    """Two experts, a shared one, or a weight other than 1 are no feed-forward."""
    single = {"num_experts": 1, "num_experts_per_tok": 1, "mlp_only_layers": []}
    with torch.no_grad():
        dense, _ = as_family(make("qwen3_moe", **single, norm_topk_prob=False), "qwen3")
        assert dense.config.family == "qwen3" and not dense.routers()
    for name, changes in (
        ("qwen3_moe", single | {"num_experts": 2}),
        ("llama4_scout", {"num_local_experts": 1}),
        ("gpt_oss", {"num_local_experts": 1, "num_experts_per_tok": 1}),
    ):
        for target in ("qwen3", "llama"):
            with pytest.raises(ConfigError):
                as_family(make(name, **changes), target)


def test_every_pair_of_families_is_exact_or_refused() -> None:
    """No third outcome, and never an error without a message for users."""
    for name in hf.CONFIGS:
        model = make(name)
        for target in FAMILIES:
            try:
                other, _ = as_family(model, target)
            except CoterieError:
                continue
            with torch.no_grad():
                a, b = (
                    m.logits(m(torch.tensor(IDS), ForwardContext.packed([len(IDS)]))) for m in (model, other)
                )
            assert_model_close(model.config, b, a, len(IDS))


def test_rounding_is_counted_and_never_called_lossless(tmp_path: Path) -> None:
    model = make("qwen3_moe")
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    # Two need more than bfloat16 has.
    model.norm.weight.data[:3] = torch.tensor([1.0 + 2**-9, 1.0 + 3 * 2**-9, 3.0])
    save_model(tmp_path / "a", model)
    receipt = convert_directory(tmp_path / "a", tmp_path / "b", dtype="bfloat16")
    assert not receipt.lossless and (receipt.rounding.tensors, receipt.rounding.numbers) == (1, 2)
    assert receipt.rounding.relative == pytest.approx(2**-9, rel=0.01) and receipt.rounding.vanished == 0
    assert receipt.difference.max_logprob > 0 and receipt.exact.max_logprob == 0
    assert {value.dtype for value in stored(tmp_path / "b").values()} == {torch.bfloat16}
    check_receipt(receipt, tmp_path / "b")
    wider = convert_directory(tmp_path / "b", tmp_path / "c", dtype="float32")
    assert wider.lossless and wider.dtype == ("bfloat16", "float32") and wider.difference.max_logprob == 0
    kept = convert_directory(tmp_path / "b", tmp_path / "d")
    assert kept.lossless and kept.dtype == ("bfloat16", "bfloat16")
    model.norm.weight.data[0] = 1e-20
    save_model(tmp_path / "e", model)
    assert convert_directory(tmp_path / "e", tmp_path / "f", dtype="float16").rounding.vanished >= 1


def test_numbers_too_large_for_the_type(tmp_path: Path) -> None:
    model = make("qwen3")
    model.blocks[1].attention.v.weight.data[3, 2] = 1e5
    save_model(tmp_path / "a", model)
    with pytest.raises(
        CheckpointError, match=r"'blocks\.1\.attention\.v\.weight' holds 1e\+05, too large for float16"
    ):
        convert_directory(tmp_path / "a", tmp_path / "b", dtype="float16")
    assert not (tmp_path / "b").exists()


def test_selection_biases_and_mixed_types_keep_their_bits(tmp_path: Path) -> None:
    save_model(tmp_path / "a", make("deepseek_v3"), dtype="bfloat16")
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    convert_directory(tmp_path / "a", tmp_path / "b")
    assert stored(tmp_path / "b")[name].dtype == torch.float32
    (tmp_path / "a" / "coterie.json").unlink()
    tensors = stored(tmp_path / "a")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float() + 1e-6
    save_file(tensors, tmp_path / "a" / "model.safetensors", {"format": "pt"})
    receipt = convert_directory(tmp_path / "a", tmp_path / "c")
    assert receipt.lossless and receipt.dtype == ("float32", "float32")
    assert torch.equal(stored(tmp_path / "c")["model.norm.weight"], tensors["model.norm.weight"])


def test_quantised_weights_are_widened_and_rounding_told(tmp_path: Path) -> None:
    save_model(tmp_path / "a", make("deepseek_v3"))
    (tmp_path / "a" / "coterie.json").unlink()
    tensors = stored(tmp_path / "a")
    for name in [name for name in tensors if name.endswith("down_proj.weight")]:
        tensors[name + "_scale_inv"] = torch.full([-(-size // 16) for size in tensors[name].shape], 1.2345)
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "a" / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    receipt = convert_directory(tmp_path / "a", tmp_path / "b")
    assert receipt.dtype == ("quantised", "bfloat16") and receipt.changes == [
        "widened from the quantised form on disk"
    ]
    assert not receipt.lossless and receipt.rounding.tensors > 0
    assert "quantization_config" not in json.loads((tmp_path / "b" / "config.json").read_text())
    assert convert_directory(tmp_path / "a", tmp_path / "c", dtype="float32").lossless


def test_the_image_encoder_is_left_behind_only_when_asked(tmp_path: Path) -> None:
    whole("llama4", tmp_path / "a")
    kept = convert_directory(tmp_path / "a", tmp_path / "b")
    assert kept.lossless and any(name.startswith("vision_model.") for name in stored(tmp_path / "b"))
    with pytest.raises(ConfigError, match=r"cannot carry the image encoder .*--drop vision"):
        convert_directory(tmp_path / "a", tmp_path / "c", "llama4_text")
    with pytest.raises(ConfigError, match="a text-only target"):
        convert_directory(tmp_path / "a", tmp_path / "c", "llama4", drop=["vision"])
    receipt = convert_directory(tmp_path / "a", tmp_path / "c", "llama4_text", drop=["vision"])
    assert not receipt.lossless and receipt.changes[0].startswith("dropped: the image encoder (")
    assert receipt.difference.max_logprob == 0 and not any(
        "vision" in name for name in stored(tmp_path / "c")
    )
    assert "vision_config" not in json.loads((tmp_path / "c" / "config.json").read_text())
    check_receipt(receipt, tmp_path / "c")


def test_layers_for_multi_token_prediction(tmp_path: Path) -> None:
    with_mtp(tmp_path / "a")
    kept = convert_directory(tmp_path / "a", tmp_path / "b")
    before, after = stored(tmp_path / "a"), stored(tmp_path / "b")
    assert kept.lossless and all(torch.equal(before[key], after[key]) for key in before)
    receipt = convert_directory(tmp_path / "a", tmp_path / "c", drop=["mtp"])
    assert not receipt.lossless and "model.layers.4.enorm.weight" not in stored(tmp_path / "c")
    with pytest.raises(ConfigError, match="this has none"):
        convert_directory(tmp_path / "c", tmp_path / "d", drop=["mtp"])
    with pytest.raises(ConfigError, match="'head' cannot be dropped"):
        convert_directory(tmp_path / "a", tmp_path / "d", drop=["head"])


def test_what_stands_beside_the_weights(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train([text * 3 for text in TEXTS], 320)
    save_model(tmp_path / "a", make("qwen3", vocab_size=320), tokenizer)
    (tmp_path / "a" / "generation_config.json").write_text('{"eos_token_id": [0], "temperature": 0.6}')
    for name in ("LICENSE", "README.md", "modeling_own.py", "extra.bin"):
        (tmp_path / "a" / name).write_text(name)
    (tmp_path / "a" / "train").mkdir()
    receipt = convert_directory(tmp_path / "a", tmp_path / "b", "qwen3_moe")
    for name in ("generation_config.json", "LICENSE", "README.md", "tokenizer.json", "chat_template.jinja"):
        assert (
            name in receipt.copied
            and (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
        )
    assert receipt.left_out == ["extra.bin", "modeling_own.py", "train/"]
    check_receipt(receipt, tmp_path / "b")


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "a", make("qwen3_moe"), probes=True)
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "x").touch()
    with pytest.raises(CheckpointError, match="exists already"):
        convert_directory(tmp_path / "a", tmp_path / "busy")
    write = convert.write_model_files

    def damage(folder: Path, *arguments: object) -> None:
        write(folder, *arguments)  # type: ignore[arg-type]
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.2.mlp.experts.1.up_proj.weight"][0, 0] += 1.0
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(convert, "write_model_files", damage)
    with pytest.raises(CheckpointError, match=r"experts\.1\.up_proj\.weight' was not written as it is"):
        convert_directory(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(convert, "_same_tensors", lambda *_: 1)
    with pytest.raises(CheckpointError, match="the result answers differently"):
        convert_directory(tmp_path / "a", tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "busy"]


def test_a_source_that_is_not_what_it_was_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "a", make("qwen3_moe"), probes=True)
    file = tmp_path / "a" / "model.safetensors"
    with open(file, "r+b") as opened:
        opened.seek(read_header(file)["model.norm.weight"].start)
        opened.write((1.5 * stored(tmp_path / "a")["model.norm.weight"]).numpy().tobytes())
    with pytest.raises(CheckpointError, match="SHA-256 of samples differs"):
        convert_directory(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a" / "coterie.json").unlink()
    with pytest.raises(CheckpointError, match="is not the model its probes were recorded from"):
        convert_directory(tmp_path / "a", tmp_path / "b")
    save_model(tmp_path / "c", make("qwen3_moe"), probes=True)
    (tmp_path / "c" / "probes" / "probes.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"probes\.safetensors: is missing"):
        convert_directory(tmp_path / "c", tmp_path / "d")


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_one_model_is_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None
) -> None:
    save_model(tmp_path / "a", make("qwen3_moe"), probes=True)
    read = one_at_a_time(monkeypatch)
    receipt = convert_directory(tmp_path / "a", tmp_path / "b", dtype=dtype)
    assert len(read) == 2 and receipt.lossless == (dtype is None)
