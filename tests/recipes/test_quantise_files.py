"""Models written in codes: what is read back is what loading in that form holds, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.quantise import quantised_parts
from coterie.checkpoints.quantised.encoded import packed, unpacked
from coterie.checkpoints.tensor_writer import write_shards
from coterie.config import ConfigError, Precision
from coterie.nn.quantised_tensor import QuantisedTensor
from coterie.recipes.quantise_files import plan_files
from tests.checkpoints.quantised.packers import words
from tests.checkpoints.quantised.reading import logits
from tests.checkpoints.quantised.test_libraries import RUN, installed
from tests.families.hf import tiny

MIXED = "experts=int4,attention=int8,ffn=int8,block=4"


@given(
    bits=st.sampled_from([4, 8]),
    rows=st.integers(1, 3),
    columns=st.integers(1, 19),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_words_are_those_of_one_long_number_a_row(bits: int, rows: int, columns: int, seed: int) -> None:
    half = 1 << (bits - 1)
    codes = torch.randint(-half, half, (rows, columns), generator=torch.Generator().manual_seed(seed))
    found = packed(codes.to(torch.int8), bits)
    assert torch.equal(found, words((codes + half).tolist(), bits))
    assert torch.equal(unpacked(found, bits, columns).long(), codes + half)


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_around_0_are_the_numbers(bits: int) -> None:
    weight = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    held = QuantisedTensor((2, 3, 20), bits, 8)
    held.store(weight)
    codes = torch.nn.functional.pad(held.signed().float(), (0, 4)).unflatten(-1, (3, 8))
    assert torch.equal((codes * held.scales.float()[..., None]).flatten(-2)[..., :20], held.dequantise())


def write(source: Path, out: Path, table: str) -> None:
    """A directory in codes, as `recipes.quantise` writes it, without receipt and small files."""
    checkpoint = Checkpoint.open(source)
    planned = plan_files(checkpoint, Precision.parse(table))
    out.mkdir()
    write_shards(out, planned.pieces)
    config = checkpoint.raw_config | {"quantization_config": planned.description}
    (out / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "table", "dtype"),
    [
        ("mixtral", "experts=int4,attention=int8,head=int8,block=8", torch.float32),
        ("deepseek_v3", MIXED + ",embedding=bf16", torch.float32),
        ("phi3", "int8,attention=bf16,block=16", torch.float32),
        ("qwen3_next", "int4,block=4", torch.bfloat16),
    ],
)
def test_what_is_written_is_what_loading_so_holds(
    name: str, table: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    tiny(name).to(dtype).save_pretrained(tmp_path / "source")
    write(tmp_path / "source", tmp_path / "out", table)
    precision = Precision.parse(table)
    written = Checkpoint.open(tmp_path / "out").load(dtype, precision=precision).model
    held = Checkpoint.open(tmp_path / "source").load(dtype, precision=precision).model
    ours, theirs = quantised_parts(written), quantised_parts(held)
    assert ours.keys() == theirs.keys() and ours
    for part, codes in ours.items():
        assert (
            codes.kept
            and torch.equal(codes.codes, theirs[part].codes)
            and torch.equal(codes.scales, theirs[part].scales)
        )
    own = dict(held.named_parameters())
    assert all(torch.equal(parameter, own[name]) for name, parameter in written.named_parameters())
    assert torch.equal(logits(written), logits(held))
    wide = Checkpoint.open(tmp_path / "out").load("float32").model
    assert all(torch.equal(wide.get_parameter(part), codes.dequantise()) for part, codes in ours.items())


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("gpt_oss", "attention=int4,block=8", "is one tensor of all experts"),
        ("llama4_maverick", "int8,block=8", "which compressed-tensors has no form for"),
        ("llama_tied_bias", "int8,head=int8,block=8", "the head is the embedding, which stays as it is"),
        ("qwen3", "int8,block=24", "rows of 32, which blocks of 24 do not fill evenly; give block=16"),
        ("qwen3", "attention=bf16", "attention=bf16 puts no weight in codes; name int8 or int4"),
        ("phi3", "dense=int8,attention=int4,block=7", "do not fill evenly; give block=4"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused(name: str, table: str, message: str, tmp_path: Path) -> None:
    tiny(name).save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as caught:
        plan_files(Checkpoint.open(tmp_path), Precision.parse(table))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_groups_are_found_by_the_names_that_readers_use(tmp_path: Path) -> None:
    tiny("mixtral").save_pretrained(tmp_path)
    found = plan_files(Checkpoint.open(tmp_path), Precision.parse("experts=int4,attention=int8,block=8"))
    experts, rest = found.description["config_groups"].values()
    assert experts["weights"]["num_bits"] == 4 and experts["targets"][-1] == "Linear"
    assert r"re:.*layers\.\d+\.mlp\.experts\.\d+\.w1$" in experts["targets"]
    assert rest["weights"]["num_bits"] == 8 and len(rest["targets"]) == 4
    assert found.one_dense_form
    assert {"lm_head", r"re:.*layers\.\d+\.block_sparse_moe\.gate$"} <= set(found.description["ignore"])
    one = plan_files(Checkpoint.open(tmp_path), Precision.parse("int8,block=8")).description["config_groups"]
    assert [group["targets"] for group in one.values()] == [["Linear"]]


@pytest.mark.slow
@pytest.mark.net
@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("qwen3", "int8,block=8"),
        ("qwen3_moe", "int4,block=8"),
        ("mixtral", "experts=int4,attention=int8,head=int8,block=8"),
        ("deepseek_v3", MIXED),
        ("lfm2_moe", "experts=int4,attention=int8,block=4"),
        ("phi3", "int4,block=8"),
    ],
)
def test_transformers_reads_the_same_weights(name: str, table: str, tmp_path: Path) -> None:
    tiny(name).to(torch.bfloat16).save_pretrained(tmp_path / "source")
    write(tmp_path / "source", tmp_path / "out", table)
    search = os.pathsep.join([str(installed("compressed")), *sys.path])
    script = Path(__file__).parents[1] / "checkpoints" / "quantised" / "scripts" / "read.py"
    subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out")],
        check=True,
        timeout=RUN,
        env=os.environ | {"PYTHONPATH": search, "HF_HUB_OFFLINE": "1"},
    )
