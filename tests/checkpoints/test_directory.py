"""The checkpoint directory: round trips, shards, and one clear line for everything that is wrong with it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from coterie.checkpoints import directory
from coterie.checkpoints.commit import verify_directory
from coterie.checkpoints.directory import load_model, save_model
from coterie.checkpoints.tensor_writer import write_model_files
from coterie.config import CheckpointError, CoterieError
from coterie.families import config_from_hf
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from tests.nn.test_transformer import SMALL

SETTINGS = SMALL | {"vocab_size": 40, "tie_word_embeddings": True}


def make() -> Transformer:
    model = Transformer(config_from_hf(SETTINGS))
    model.initialise(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved model without its manifest, so that tests may edit its files."""
    save_model(tmp_path / "model", make())
    (tmp_path / "model" / "coterie.json").unlink()
    return tmp_path / "model"


def rewrite(path: Path, change: object) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)  # type: ignore[operator]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def test_shards_hold_the_same_tensors_and_load(tmp_path: Path) -> None:
    model = make()
    (tmp_path / "sharded").mkdir()
    write_model_files(tmp_path / "sharded", model, shard_bytes=3000)
    files = sorted((tmp_path / "sharded").glob("*.safetensors"))
    assert len(files) > 3
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for f in files for t in load_file(f).values())
    back = load_model(tmp_path / "sharded").model
    for (name, before), (_, after) in zip(model.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(before, after), name


def test_manifest_verifies_and_a_cut_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save_model(path, make())
    verify_directory(path)
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(path)


def test_bfloat16_is_half_the_size(saved: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "half", load_model(saved).model, dtype="bfloat16")
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.6 * (
        saved / "model.safetensors"
    ).stat().st_size
    model = load_model(tmp_path / "half", dtype="bfloat16").model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(torch.arange(5), ForwardContext.packed([5])).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.layers.1.mlp.experts.2.up_proj.weight"), r"missing.*experts\.2\.up_proj"),
        (
            lambda t: t.update({"model.layers.9.extra": torch.zeros(1)}),
            r"unexpected tensor 'model\.layers\.9\.extra'",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(3)}),
            r"'model\.norm\.weight' has shape \(3,\)",
        ),
        (lambda t: t.update({"lm_head.weight": torch.zeros(40, 16)}), "differs from the embedding"),
    ],
)
def test_tensors_that_do_not_fit_are_named(saved: Path, change: object, message: str) -> None:
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=message):
        load_model(saved)


def test_a_repeated_tied_head_is_accepted_when_equal(saved: Path) -> None:
    rewrite(saved, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert load_model(saved).model.head is None


def test_pickle_is_refused(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickle.*pytorch_model\.bin"):
        load_model(saved)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"model_type": "qwen3_mo"}, "did you mean 'qwen3_moe'"),
        ({"hidden_act": "gelu"}, "'hidden_act' is 'gelu'"),
        ({"num_experts_per_tok": 5}, "top_k 5 is larger"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1.0}}, "rope_type 'dynamic'"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
    ],
)
def test_configs_that_would_be_another_model_are_refused(
    saved: Path, edit: dict[str, object], message: str
) -> None:
    data = json.loads((saved / "config.json").read_text()) | edit
    (saved / "config.json").write_text(json.dumps(data))
    with pytest.raises(CoterieError, match=message):
        load_model(saved)


def test_unknown_keys_survive_the_round_trip(saved: Path, tmp_path: Path) -> None:
    data = json.loads((saved / "config.json").read_text()) | {
        "some_future_key": {"a": [1, 2]},
        "use_cache": False,
    }
    (saved / "config.json").write_text(json.dumps(data))
    save_model(tmp_path / "again", load_model(saved).model)
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert data.items() <= again.items()


def test_a_model_its_family_cannot_carry_is_not_saved(tmp_path: Path) -> None:
    config = make().config
    data = config.to_dict()
    for block in data["blocks"]:
        block["ffn"]["router"] |= {"select_bias": True, "score": "sigmoid"}
    model = Transformer(type(config).from_dict(data))
    model.initialise(0)
    with pytest.raises(CoterieError, match=r"cannot carry.*router\.(select_bias|score)"):
        save_model(tmp_path / "model", model)
    assert not (tmp_path / "model").exists()


def test_a_folder_of_something_else_is_never_replaced(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "notes.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="not a checkpoint of coterie"):
        save_model(folder, make())
    assert (folder / "notes.txt").read_text() == "years of work"
    save_model(tmp_path / "mine", make())
    save_model(tmp_path / "mine", make())  # a checkpoint may be replaced


@pytest.mark.parametrize("path", ["nowhere", "/no/such/directory", "a/b/c"])
def test_missing_directories_say_what_to_give(path: str) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        load_model(path)


def test_hub_ids_offline_give_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="nobody/nothing-here") as caught:
        load_model("nobody/nothing-here")
    assert "\n" not in str(caught.value)


def header(entries: dict[str, object], length: int | None = None, body: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        header({}, length=2**60),
        header({"a": TENSOR}, body=b"\0" * 4),
        header({"a": TENSOR, "b": TENSOR}, body=b"\0" * 8),
        header({"a": TENSOR | {"shape": [2**40, 2**40]}}, body=b"\0" * 8),
        header({"a": TENSOR | {"data_offsets": [8, 0]}}, body=b"\0" * 8),
        b"PK\x03\x04" + b"\0" * 60,
    ],
)
def test_malformed_headers_are_refused(saved: Path, content: bytes) -> None:
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(saved)


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_never_more_than_an_error(saved: Path, content: bytes) -> None:
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError):
        load_model(saved)


def test_loading_reads_no_pickle() -> None:
    for file in Path(directory.__file__).parent.glob("*.py"):
        source = file.read_text()
        assert "torch.load" not in source and "pickle.load" not in source, file
