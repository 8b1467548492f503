"""`coterie inspect`: words for every family, published names, directories, configs alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from coterie.checkpoints.directory import save_model
from coterie.families import config_from_hf
from coterie.plan.describe import describe
from coterie.proof.texts import TEXTS
from coterie.text.tokenizer import Tokenizer
from tests.cli.support import call
from tests.families import hf
from tests.proof.test_records import make


@pytest.mark.parametrize("name", sorted(hf.CONFIGS))
def test_every_family_is_described(name: str) -> None:
    data = copy.deepcopy(hf._BASE | hf.CONFIGS[name])  # transformers writes into the parts
    facts = describe(config_from_hf(AutoConfig.for_model(**data).to_dict()))
    parts = ("attention", "of state", "feed-forward", "experts")
    assert facts.layers and all(any(part in line for part in parts) for line in facts.layers)
    assert facts.counts.total >= facts.counts.active_all > 0


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    call("inspect", *map(str, arguments))
    return capsys.readouterr().out


def test_a_published_name(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "llama-4-scout")
    assert "total 107,769,861,120, in experts 96,636,764,160 (90%)" in text
    assert (
        "published    109B total, 17B active (nearest: with embedding and head); source: Llama 4 model card"
        in text
    )
    assert "196,608 bytes per token in bfloat16, 49,152 beyond every window" in text
    facts = json.loads(shown(capsys, "deepseek-r1", "--json"))
    assert facts["name"] == "deepseek-r1" and facts["kv_bytes_per_token"] == 70272
    assert facts["memory_bytes"]["to hold in bfloat16"] == 2 * facts["parameters"]["everything"]
    assert 11.4e9 < facts["parameters"]["mtp"] < 11.7e9 and facts["experts_share"] > 0.97


def test_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = Tokenizer.train([TEXTS[0] * 3], 300)
    save_model(tmp_path / "m", make(vocab_size=320), tokenizer, dtype="bfloat16", probes=True)
    text = shown(capsys, tmp_path / "m")
    assert (
        "BF16; 16 probes" in text
        and "rows of the embedding unused" in text
        and "with a chat template" in text
    )
    facts = json.loads(shown(capsys, tmp_path / "m", "--json"))
    assert facts["stored"]["bytes_by_type"] == {"BF16": 2 * facts["parameters"]["total"]}
    assert facts["tokenizer"]["end"] == "<|endoftext|>" and facts["quantised"] is None


def test_a_config_alone_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = AutoConfig.for_model(**(hf._BASE | hf.CONFIGS["gpt_oss"])).to_dict()
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = shown(capsys, tmp_path)
    assert "quantised on disk (mxfp4)" in text and "tokenizer    none" in text
    assert "on disk      " in text and "has no model.safetensors" in text
    assert "attention sinks" in text and "attention within a window of 5: layers 0, 2" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llama-4-scot", "did you mean 'llama-4-scout'?"),
        ("nothing-like-it", "no published model of that name; give"),
        ("qwen3", "the beginning of several"),
        ("llama-4-behemoth", "never released"),
    ],
)
def test_names_that_are_none(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call("inspect", name)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("coterie: ") and words in line
