"""Whenever transformers' ids differ from tokenizer.json's because of the tokenizer class, a note says so."""

import json
from pathlib import Path

import pytest

from coterie.text.tokenizer import CHATML, Tokenizer
from tests.text.layouts import write

transformers = pytest.importorskip("transformers")
TEXTS = ("hello  world e\u0301 1234", "  lead", "<|im_start|>user\nhi<|im_end|>\n", "it's 2024\n\n x")


@pytest.mark.parametrize(
    ("layout", "name", "kind", "more"),
    [
        ("pieces, old normaliser", "LlamaTokenizer", "llama", {}),
        ("pieces, space first", "LlamaTokenizerFast", "llama", {}),
        ("pieces, space first", "LlamaTokenizer", "llama", {"legacy": True}),
        ("pieces, no space", "LlamaTokenizer", "llama", {"add_prefix_space": False}),
        ("pieces, old normaliser", "LlamaTokenizer", "mixtral", {}),
        ("byte-level, control above", "LlamaTokenizer", "llama", {}),
        ("byte-level, control above", "Qwen2Tokenizer", "qwen3", {}),
        ("byte-level, control above", "PreTrainedTokenizerFast", "qwen3", {}),
        ("byte-level, control above", "PreTrainedTokenizerFast", "qwen3", {"split_special_tokens": True}),
    ],
)
def test_other_ids_of_a_class_are_named(
    layout: str, name: str, kind: str, more: dict[str, object], tmp_path: Path
) -> None:
    write(layout, tmp_path, CHATML.read_text())
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": name, **more}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))  # transformers looks at it
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    equal = all(
        ours.encode(text, allow_special=True) == theirs(text, add_special_tokens=False).input_ids
        for text in TEXTS
    )
    assert equal == (not ours.notes_on_class(kind))
