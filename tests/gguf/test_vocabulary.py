"""Tokenizers in GGUF: the split's name, types, special tokens, and what is refused.

That llama.cpp gives the same ids is tested in test_llamacpp.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.gguf_model.token_types import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from coterie.config import CheckpointError
from coterie.gguf.vocabulary import Vocabulary, vocabulary
from coterie.llamacpp.splits import SPLITS, Split
from coterie.text.tokenizer import SPLIT, Tokenizer
from tests.gguf.models import VOCAB, describe, tokenizer
from tests.gguf.tokenizers import SPECIALS, byte_level, pieces


def changed(result: Tokenizer, directory: Path, change: Any = None, **config: Any) -> Path:
    """The tokenizer saved, its tokenizer.json passed through `change`, keys added to
    tokenizer_config.json.
    """
    result.save(directory)
    content = json.loads((directory / "tokenizer.json").read_text())
    if change is not None:
        change(content)
    (directory / "tokenizer.json").write_text(json.dumps(content))
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return directory


def read(directory: Path, vocab_size: int) -> Vocabulary:
    return vocabulary(Checkpoint.open(describe(directory, vocab_size)), vocab_size)


def test_the_tokenizer_of_every_new_model(tmp_path: Path) -> None:
    found = read(changed(tokenizer(), tmp_path), VOCAB + 2)
    tokens, types = found.keys["tokenizer.ggml.tokens"], found.keys["tokenizer.ggml.token_type"]
    assert found.pre == found.keys["tokenizer.ggml.pre"] == "qwen2"
    assert tokens[:4] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"]
    assert types[:9] == [CONTROL] * 3 + [USER_DEFINED] * 6
    (line,) = found.differences
    assert line.startswith("llama.cpp shows <think> </think> <tool_call>")
    assert set(types[9:VOCAB]) == {NORMAL} and len(set(tokens)) == VOCAB + 2
    assert tokens[VOCAB:] == ["[PAD320]", "[PAD321]"] and types[VOCAB:] == [UNUSED] * 2
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    assert found.keys["tokenizer.ggml.merges"] == [" ".join(pair) for pair in content["model"]["merges"]]
    assert found.keys["tokenizer.chat_template"] == tokenizer().chat_template
    assert found.keys["tokenizer.ggml.eot_token_id"] == 2


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.name)
def test_every_split_has_its_name(tmp_path: Path, split: Split) -> None:
    assert read(changed(byte_level(split.rules, split.whole_first), tmp_path), 500).pre == split.name


def test_whole_words_first_makes_no_difference_where_merges_reach_every_token(tmp_path: Path) -> None:
    trained = byte_level((SPLIT,), whole_first=True)
    assert read(changed(trained, tmp_path), 500).pre == "qwen2"

    def unreachable(content: dict[str, Any]) -> None:
        content["model"]["vocab"]["qqqqq"] = 420

    with pytest.raises(
        CheckpointError, match=r"the token 'qqqqq', which its merges do not make \(ignore_merges\)"
    ):
        read(changed(trained, tmp_path, unreachable), 500)


def split(content: dict[str, Any], **changes: Any) -> None:
    content["pre_tokenizer"]["pretokenizers"][0] |= changes


REFUSED: list[tuple[Any, str]] = [
    (lambda c: split(c, pattern={"Regex": r"\p{N}{1,4}"}), "rules that llama.cpp does not have"),
    (lambda c: split(c, behavior="Removed"), "splits text by a 'Split'"),
    (lambda c: c["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "add_prefix_space"),
    (lambda c: c.update(pre_tokenizer={"type": "Whitespace"}), "by a 'Whitespace'"),
    (lambda c: c.update(pre_tokenizer=None), "neither byte-level nor falls back to bytes"),
    (lambda c: c.update(normalizer={"type": "Lowercase"}), "changes text by 'Lowercase'"),
    (lambda c: c["model"].update(merges=[]), "has no merges"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_llama_cpp_would_follow_otherwise_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message.replace("(", r"\(")) as error:
        read(changed(byte_level((SPLIT,)), tmp_path, change), 500)
    assert "\n" not in str(error.value)


def test_a_model_without_a_tokenizer_or_with_too_many_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        read(tmp_path, 500)
    with pytest.raises(CheckpointError, match="420 tokens but the model only 419"):
        read(changed(byte_level((SPLIT,)), tmp_path), 419)


def test_what_differs_is_said(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["normalizer"] = {"type": "NFC"}
        content["added_tokens"][3] |= {"lstrip": True, "special": False}

    directory = changed(byte_level((SPLIT,)), tmp_path, change)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 2, 3]}')
    found = read(directory, 500)
    assert found.keys["tokenizer.ggml.token_type"][3] == USER_DEFINED
    assert any("NFC" in line for line in found.differences)
    assert any("white space around '<think>'" in line for line in found.differences)
    assert "llama.cpp does not stop at token 3 (<think>) by itself" in found.differences


def test_what_is_put_before_a_text(tmp_path: Path) -> None:
    def template(content: dict[str, Any]) -> None:
        special = {"SpecialToken": {"id": SPECIALS[0], "type_id": 0}}
        single = [special, {"Sequence": {"id": "A", "type_id": 0}}]
        ids = {SPECIALS[0]: {"id": SPECIALS[0], "ids": [0], "tokens": [SPECIALS[0]]}}
        step = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": ids}
        content["post_processor"] = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, step]}
        content["post_processor"]["processors"][0] |= {"add_prefix_space": True, "trim_offsets": True}

    plain = byte_level((SPLIT,))
    for change, config, wanted in (
        (None, {}, False),
        (template, {}, True),
        (template, {"add_bos_token": False}, False),
        (None, {"add_bos_token": True}, True),
        (None, {"add_bos_token": True, "bos_token": None}, False),
    ):
        found = read(changed(plain, tmp_path, change, **config), 500).keys
        assert (
            found["tokenizer.ggml.add_bos_token"] is wanted and found["tokenizer.ggml.add_eos_token"] is False
        )
        assert found["tokenizer.ggml.bos_token_id"] == 0
        plain.save(tmp_path)


def test_pieces_have_scores_in_the_order_of_their_merges(tmp_path: Path) -> None:
    found = read(changed(pieces(), tmp_path), 600).keys
    tokens, scores = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.scores"]
    types = found["tokenizer.ggml.token_type"]
    assert found["tokenizer.ggml.model"] == "llama" and found["tokenizer.ggml.add_space_prefix"] is True
    assert types[:4] == [UNKNOWN, CONTROL, CONTROL, BYTE] and tokens[3 + 0x41] == "<0x41>"
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    made = list(dict.fromkeys("".join(pair) for pair in content["model"]["merges"]))
    assert [scores[tokens.index(piece)] for piece in made] == [-float(rank) for rank in range(len(made))]
    assert found["tokenizer.ggml.add_bos_token"] is True and found["tokenizer.ggml.unknown_token_id"] == 0
    assert read(changed(pieces(False), tmp_path), 600).keys["tokenizer.ggml.add_space_prefix"] is False


@pytest.mark.parametrize("change", ["order", "cut", "char", "byte", "space"])
def test_pieces_that_scores_cannot_order_are_refused(tmp_path: Path, change: str) -> None:
    def apply(content: dict[str, Any]) -> None:
        model = content["model"]
        if change == "order":
            many = next(
                p for p in model["merges"] if sum("".join(o) == "".join(p) for o in model["merges"]) > 1
            )
            model["merges"].append(model["merges"].pop(model["merges"].index(many)))
        elif change == "cut":
            many = next(
                p for p in model["merges"] if sum("".join(o) == "".join(p) for o in model["merges"]) > 1
            )
            model["merges"].remove(many)
        elif change == "char":
            model["vocab"]["好x"] = len(model["vocab"])
        elif change == "byte":
            model["vocab"]["gone"] = model["vocab"].pop("<0x41>")
        else:
            content["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}

    words = {"byte": "no piece '<0x41>'", "space": "marks spaces in a way"}
    with pytest.raises(CheckpointError, match=words.get(change, "cannot be expressed by scores")):
        read(changed(pieces(), tmp_path, apply), 600)


def test_runs_of_spaces_that_share_a_score(tmp_path: Path) -> None:
    """transformers lists their merges by length, in turn; merging from the left cuts them alike or is
    refused.
    """
    found = read(changed(pieces(runs=(2, 4, 3)), tmp_path), 600).keys
    tokens, scores = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.scores"]
    assert len({scores[tokens.index("▁" * length)] for length in (2, 3, 4)}) == 1
    assert min(scores) == scores[tokens.index("▁▁")]

    def from_the_right(content: dict[str, Any]) -> None:
        merges = content["model"]["merges"]
        runs = [pair for pair in merges if set("".join(pair)) == {"▁"}]
        content["model"]["merges"] = merges[: -len(runs)] + runs[::-1]

    with pytest.raises(CheckpointError, match="cannot be expressed by scores"):
        read(changed(pieces(runs=(2, 4, 3)), tmp_path, from_the_right), 600)
