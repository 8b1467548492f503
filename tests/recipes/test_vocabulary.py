"""Tokens added to a model: only its tables grow, and the new rows are the mean of the pieces."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from coterie.checkpoints.directory import load_model, save_model
from coterie.cli.main import main
from coterie.config import CheckpointError, ConfigError, DataError
from coterie.families import config_from_hf
from coterie.nn.transformer import Transformer
from coterie.recipes import vocabulary
from coterie.recipes.vocabulary import extend_vocabulary
from coterie.text.extended import extended
from coterie.text.tokenizer import Tokenizer
from tests.families.hf import _BASE, CONFIGS, randomise

LINES = ["the cat sees a red house and runs", "one two three green trees", "dogs find seven trees"] * 20
TOKENS = ["<tool>", "greenhouse", "Ωμέγα"]


def made(path: Path, name: str = "qwen3_moe", spare: int = 0, dtype: str = "float32") -> Tokenizer:
    tokenizer = Tokenizer.train(LINES, vocab_size=300)
    rows = tokenizer.vocab_size + spare
    model = Transformer(config_from_hf(_BASE | CONFIGS[name] | {"vocab_size": rows}))
    randomise(model)
    save_model(path, model, tokenizer, dtype=dtype)
    return tokenizer


@pytest.mark.parametrize(("name", "spare", "dtype"), [
    ("qwen3_moe", 0, "float32"), ("qwen3_moe", 2, "bfloat16"), ("llama_tied_bias", 5, "float32"),
])  # fmt: skip
def test_only_the_tables_grow(name: str, spare: int, dtype: str, tmp_path: Path) -> None:
    old = made(tmp_path / "a", name, spare, dtype)
    receipt = extend_vocabulary(tmp_path / "a", tmp_path / "b", TOKENS, special=False)
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in "ab")
    assert before.keys() == after.keys()
    grown = {"model.embed_tokens.weight", "lm_head.weight"}
    first, size = old.vocab_size, old.vocab_size + max(spare, len(TOKENS))
    for key in before:
        if key not in grown:
            assert torch.equal(before[key], after[key])
            continue
        assert after[key].shape[0] == size and torch.equal(before[key][:first], after[key][:first])
        for number, token in enumerate(TOKENS):
            expected = before[key][old.encode(token)].float().mean(0).to(before[key].dtype)
            assert torch.equal(after[key][first + number], expected)
    new = Tokenizer.load(tmp_path / "b")
    assert new.encode("a <tool> in the greenhouse")[1:2] != [first]
    assert new.encode("<tool>greenhouse") == [first, first + 1]
    assert receipt.rows == (first + spare, size) and 0 < receipt.largest_share < 1
    assert json.loads((tmp_path / "b" / "vocabulary.json").read_text())["tokens"][1]["token"] == "greenhouse"
    load_model(tmp_path / "b", check=True)


def test_transformers_reads_the_result_alike(tmp_path: Path) -> None:
    made(tmp_path / "a", "llama")
    extend_vocabulary(tmp_path / "a", tmp_path / "b", TOKENS, special=True)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "b"), Tokenizer.load(tmp_path / "b")
    text = "the <tool> and Ωμέγα"
    assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text, allow_special=True)
    assert set(TOKENS) <= set(theirs.all_special_tokens) | set(theirs.get_added_vocab())
    assert ours.encode(text) != ours.encode(text, allow_special=True)  # users cannot write control tokens
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    assert model.get_input_embeddings().weight.shape[0] == ours.vocab_size


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=1, max_size=4))
def test_a_token_is_one_id_wherever_it_stands(tokens: list[str]) -> None:
    tokenizer = Tokenizer.train(LINES[:3], vocab_size=270)
    try:
        new = extended(tokenizer, tokens, special=False)
    except DataError as error:
        assert "\n" not in str(error)
        return
    for number, token in enumerate(tokens):
        inside = [other for other in tokens if other != token and (token in other or other in token)]
        if not inside:
            assert tokenizer.vocab_size + number in new.encode(f"x{token}y")
    assert new.decode(new.encode("the red house")) == "the red house"


@pytest.mark.parametrize(("tokens", "message"), [
    ([], "none was given"), ([" "], "is empty"), (["<a>", "<a>"], "is given twice"),
    (["<|im_end|>"], "in the vocabulary already"),
])  # fmt: skip
def test_what_cannot_be_added_is_one_line(tokens: list[str], message: str, tmp_path: Path) -> None:
    made(tmp_path / "a")
    with pytest.raises(DataError, match=message) as caught:
        extend_vocabulary(tmp_path / "a", tmp_path / "b", tokens)
    assert "\n" not in str(caught.value) and not (tmp_path / "b").exists()


def test_a_row_that_changes_on_the_way_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "a")

    def wrong(model: Transformer, receipt: vocabulary.VocabularyReceipt):
        right = grown(model, receipt)

        def tensor(name: str) -> torch.Tensor:
            return right(name) if name != "embed.weight" else right(name).flip(0)

        return tensor

    grown = vocabulary._grown
    monkeypatch.setattr(vocabulary, "_grown", wrong)
    with pytest.raises(CheckpointError, match="was not written as it was"):
        extend_vocabulary(tmp_path / "a", tmp_path / "b", ["<a>"])
    assert not (tmp_path / "b").exists()


def test_the_command_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "a")
    (tmp_path / "list.txt").write_text("<x>\n\n<y>\n")
    words = ["add-tokens", str(tmp_path / "a"), "-o", str(tmp_path / "b"), "--token", "<z>", "--special"]
    monkeypatch.setattr("sys.argv", ["coterie", "surgery", *words, "--tokens", str(tmp_path / "list.txt")])
    with suppress(SystemExit):
        main()
    said = capsys.readouterr().out
    assert "3 special tokens" in said and "next         coterie train" in said
    with pytest.raises(ConfigError, match="is the model itself"):
        extend_vocabulary(tmp_path / "a", tmp_path / "a", ["<q>"])
