"""Probes: recorded against a slow reference, and stored with a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import coterie
from coterie.checkpoints.commit import read_manifest, verify_directory
from coterie.checkpoints.directory import load_model, save_model
from coterie.config import CheckpointError
from coterie.families import config_from_hf
from coterie.nn.forward_context import ForwardContext
from coterie.nn.transformer import Transformer
from coterie.proof import records
from coterie.proof.difference import difference
from coterie.proof.records import default_sequences, record
from coterie.proof.texts import TEXTS
from coterie.text.tokenizer import Tokenizer
from tests.arithmetic import approx, assert_close, largest, model_sums, model_tolerance
from tests.families.hf import randomise
from tests.nn.test_transformer import SMALL

SEQUENCES = [[3, 1, 4, 1, 5, 9, 2, 6], [2, 7], [1, 8, 2, 8, 1, 8]]


def make(seed: int = 0, **changes: object) -> Transformer:
    model = Transformer(config_from_hf(SMALL | {"mlp_only_layers": [0], "intermediate_size": 24} | changes))
    randomise(model, seed)
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([text * 3 for text in TEXTS], 320)


def test_a_record_equals_a_slow_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    monkeypatch.setattr(records, "PASS_TOKENS", 9)  # several groups
    found = record(model, SEQUENCES)
    position, router = 0, model.blocks[1].ffn.router
    for sequence in SEQUENCES:
        seen: list[torch.Tensor] = []
        hook = router.register_forward_hook(lambda _m, i, _o, seen=seen: seen.append(i[0] @ router.weight.T))
        with torch.no_grad():
            h_TD = model(torch.tensor(sequence), ForwardContext.packed([len(sequence)]))
            expected_TV = model.logits(h_TD).double().log_softmax(-1)
        hook.remove()
        sums = model_sums(model.config, len(sequence))
        for index in range(len(sequence) - 1):
            ours, theirs = found.top_TK[position], expected_TV[index].topk(20)
            assert_close(ours, theirs.values, *sums)
            assert_close(ours, expected_TV[index][found.top_ids_TK[position].long()], *sums)
            expected = expected_TV[index, sequence[index + 1]]
            assert float(found.next_T[position]) == approx(float(expected), *sums, size=largest(expected_TV))
            chosen = sorted(seen[0][index].topk(2).indices.tolist())
            assert found.routing[1][position].tolist() == chosen
            assert found.place(position) == (SEQUENCES.index(sequence), index + 1)
            position += 1
    assert position == found.num_positions == found.next_T.shape[0] and list(found.routing) == [1]


def test_a_record_is_in_float32_whatever_the_model_runs_in() -> None:
    model = make()
    with records.rounded(model, torch.bfloat16):
        expected = record(model, SEQUENCES)
    assert next(model.parameters()).dtype == torch.float32
    other = make().to(torch.bfloat16)
    other.compute_dtype = torch.bfloat16
    found = record(other, SEQUENCES)
    assert other.compute_dtype == torch.bfloat16 and found.dtype == expected.dtype == "bfloat16"
    assert difference(expected, found).max_logprob == 0
    assert difference(expected, record(make(), SEQUENCES)).max_logprob > 1e-4


def test_default_sequences(tokenizer: Tokenizer) -> None:
    for known in (tokenizer, None):
        first = default_sequences(known, 320, 300)
        assert first == default_sequences(known, 320, 300) and len(first) == 16
        assert all(2 <= len(ids) <= 300 and max(ids) < 320 for ids in first)
        assert max(map(len, default_sequences(known, 320, 4096))) == records.LONGEST
        assert all(len(ids) == 5 for ids in default_sequences(known, 320, 5))
    assert tokenizer.decode(default_sequences(tokenizer, 320, 300)[2][1:]) == TEXTS[2]
    with pytest.raises(CheckpointError, match="two positions"):
        default_sequences(None, 320, 1)


@pytest.mark.parametrize("sequences", [[[1]], [[1, 50]], [[-1, 2]], [[1] * 65]])
def test_unusable_sequences(sequences: list[list[int]]) -> None:
    with pytest.raises(CheckpointError, match="probe 0: needs 2 to 64 token ids below 50"):
        record(make(), sequences)


def test_nothing_to_record_and_damaged_weights() -> None:
    with pytest.raises(CheckpointError, match="there are none"):
        record(make(), [])
    model = make()
    model.norm.weight.data[0] = torch.nan
    with pytest.raises(CheckpointError, match="not finite"):
        record(model, SEQUENCES)


def test_probes_travel_with_a_checkpoint(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = make(vocab_size=320, max_position_embeddings=128)
    for dtype in ("float32", "bfloat16"):
        path = tmp_path / dtype
        save_model(path, model, tokenizer, dtype=dtype, probes=True)
        assert records.FILE in read_manifest(path)["files"]
        verify_directory(path)
        stored = records.load_probes(path)
        assert stored is not None and stored.dtype == dtype and len(stored.sequences) == 16
        for read_as in ("float32", dtype):
            load_model(path, dtype=read_as, check=True)
        again = record(load_model(path, dtype=dtype).model, stored.sequences, tokenizer)
        longest = max(len(sequence) for sequence in stored.sequences)
        found = difference(stored, again)
        assert found.max_logprob <= model_tolerance(model.config, stored.next_T, longest)
        assert found.routing == {1: 1.0}
    load_model(tmp_path / "float32", dtype="bfloat16", check=True)  # rounding is allowed for
    coterie.save(coterie.load(tmp_path / "float32", check=True), tmp_path / "again", probes=True)
    coterie.load(tmp_path / "again", check=True)


def test_missing_and_damaged_probes(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save_model(path, make())
    assert records.load_probes(path) is None
    with pytest.raises(CheckpointError, match="holds no probes"):
        load_model(path, check=True)
    records.save_probes(path, record(make(), SEQUENCES))
    file = path / records.FILE
    whole = file.read_bytes()
    tensors = load_file(file)
    for damage in (
        lambda: file.write_bytes(whole[:-9]),
        lambda: save_file(tensors, file),
        lambda: file.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"format\\": 2')),
        lambda: save_file(tensors | {"lengths": tensors["lengths"] + 1}, file, metadata={"probes": "{}"}),
    ):
        file.write_bytes(whole)
        damage()
        with pytest.raises(CheckpointError, match="not a usable record of probes"):
            records.load_probes(path)


def test_others_read_a_directory_with_probes(tmp_path: Path) -> None:
    """The probes' file is where no reader takes it for weights."""
    from transformers import AutoModelForCausalLM

    save_model(tmp_path / "model", make(), probes=True)
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert [p.name for p in (tmp_path / "model").glob("*.safetensors")] == ["model.safetensors"]
