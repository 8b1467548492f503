"""Tiny tokenizers of every layout that published models have, as Hugging Face directories."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Rust

TEXTS = [
    "The cat sat on the mat; it's 1234 o'clock.\n\n    def f(x):\n        return x + 10\n",
    "hello world how are you, the answer is four [INST] what is this [/INST]",
    "été naïve 日本語 🙂 user assistant system",
] * 8
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
# Words that somebody added, with every way of matching that an added token has.
WORDS = (
    AddedToken("ribosome", normalized=True),
    AddedToken("<mol>", normalized=False),
    AddedToken("[CITE]", normalized=False, lstrip=True),
    AddedToken("<gap>", normalized=False, rstrip=True),
    AddedToken("ATP", normalized=False, single_word=True),
)
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _byte_level(control_first: bool, **options: Any) -> Rust:
    rust = Rust(models.BPE(**options))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first = [AddedToken(name, special=True, normalized=False) for name in CONTROL] if control_first else []
    trainer = trainers.BpeTrainer(
        vocab_size=380, initial_alphabet=alphabet, special_tokens=first, show_progress=False
    )
    rust.train_from_iterator(TEXTS, trainer)
    return rust


def _tiktoken() -> Rust:
    """As Llama 3 and Qwen: a written split, NFC, whole words first, a start token."""
    rust = _byte_level(False, ignore_merges=True)
    rust.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_GPT4), "isolated")
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    rust.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL])
    start = [(CONTROL[0], rust.token_to_id(CONTROL[0]))]
    rust.post_processor = processors.TemplateProcessing(single=f"{CONTROL[0]} $A", special_tokens=start)
    return rust


def _pieces(scheme: str | None, model: str = "BPE") -> Rust:
    """SentencePiece-like: `scheme` of Metaspace, or None for the older normaliser that prepends a space."""
    names = ["<unk>", *CONTROL]
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    if model == "BPE":
        rust = Rust(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        trainer: Any = trainers.BpeTrainer(vocab_size=640, special_tokens=names + bytes_, show_progress=False)
    else:
        rust = Rust(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=240, special_tokens=names, unk_token="<unk>", show_progress=False
        )
    if scheme is None:
        rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    rust.train_from_iterator(TEXTS, trainer)
    content = json.loads(rust.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in bytes_]
    if model == "Unigram":
        content["model"]["vocab"] += [[name, -20.0] for name in bytes_]
        content["model"]["byte_fallback"] = True
    rust = Rust.from_str(json.dumps(content))
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return rust


def _word_pieces() -> Rust:
    rust = Rust(models.WordPiece(unk_token="[UNK]"))
    rust.normalizer = normalizers.BertNormalizer(lowercase=True)
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.decoder = decoders.WordPiece()
    names = ["[UNK]", *CONTROL]
    rust.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=names, show_progress=False)
    )
    return rust


LAYOUTS: dict[str, Callable[[], Rust]] = {
    "byte-level, control below": lambda: _byte_level(True),
    "byte-level, control above": lambda: _byte_level(False),
    "tiktoken-like": _tiktoken,
    "pieces, space always": lambda: _pieces("always"),
    "pieces, space first": lambda: _pieces("first"),
    "pieces, no space": lambda: _pieces("never"),
    "pieces, old normaliser": lambda: _pieces(None),
    "unigram": lambda: _pieces("always", "Unigram"),
    "word pieces": _word_pieces,
}


def write(layout: str, directory: Path, template: str) -> None:
    """The files of one layout, with tags that are not special and with added words."""
    rust = LAYOUTS[layout]()
    rust.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL])
    rust.add_tokens([AddedToken(name, special=False, normalized=False) for name in TAGS])
    rust.add_tokens(list(WORDS))
    directory.mkdir(parents=True, exist_ok=True)
    rust.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "bos_token": CONTROL[0],
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(template)
