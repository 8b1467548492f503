"""Small tokenizers of every kind that a GGUF file can carry, and the text that tells their splits apart."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from coterie.llamacpp.splits import DIGITS, GPT2, SPLITS
from coterie.text.tokenizer import Tokenizer

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>")
TEXT = (
    "The quick brown fox can't jump over 12345 lazy dogs; they'LL count 1 22 333 4444 steps!!! won't they?? "
    "Grüße aus Köln, ÀÉÎ naïve CamelCaseWords snake_case HTTPServer2Go — “quoted” … 你好，世界！日本語 "
    "テスト 한국어 x = [1, 2.5e-3];\r\n\tif (x > 10)  {\n\n        return x/3;   }\n \n  end \t\n"
    "#include <stdio.h>//comment\n"
    "emoji 😀👍🏽 ½ ² Ⅷ ١٢٣ naïve  double  spaces   three    four a\u0301 \u00a0nbsp Σίσυφος ДЕРЕВО 'tis 'S"
)


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Pieces of `TEXT` in any order, cut anywhere."""
    rng = random.Random(seed)
    texts = [TEXT, "", " ", "  a", "\n", "12", "'s", "<think>", "a <|im_end|> b"]
    for _ in range(count):
        parts = [
            TEXT[(at := rng.randrange(len(TEXT))) : at + rng.randrange(1, 12)]
            for _ in range(rng.randrange(1, 9))
        ]
        texts.append("".join(parts))
    return texts


def byte_level(rules: tuple[str, ...], whole_first: bool = False, size: int = 420) -> Tokenizer:
    """A byte-level tokenizer that splits by `rules` (regexes, or the named ones of `gguf_vocab`)."""
    from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Rust

    steps: list[Any] = []
    for rule in rules:
        if rule == DIGITS:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        elif rule != GPT2:
            steps.append(pre_tokenizers.Split(Regex(rule), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=GPT2 in rules))
    rust = Rust(models.BPE(ignore_merges=whole_first))
    rust.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rust.train_from_iterator([TEXT] * 3, trainer)
    return Tokenizer(rust.to_str(), {"eos_token": SPECIALS[0], "bos_token": SPECIALS[0]})


def pieces(prefix: bool = True, runs: tuple[int, ...] = ()) -> Tokenizer:
    """A tokenizer as `transformers` converts SentencePiece's: pieces, bytes as a fallback, merges by rank.

    `runs`: lengths of runs of spaces that share the lowest score, as in Mixtral's.
    """
    from tokenizers import Tokenizer as Rust
    from tokenizers import models, trainers

    trained = Rust(models.BPE())
    text = "▁" + TEXT.replace(" ", "▁")
    words = [text[at : at + 40] for at in range(0, len(text), 40)] * 3
    trained.train_from_iterator(words, trainers.BpeTrainer(vocab_size=330, show_progress=False))
    content = json.loads(trained.to_str())
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    found = sorted(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)
    single = [piece for piece in found if len(piece) == 1 and ord(piece) < 0x2600]  # others become bytes
    results = list(dict.fromkeys("".join(merge) for merge in content["model"]["merges"]))
    results = [piece for piece in results if set(piece) <= set(single) and not (runs and "▁▁" in piece)]
    for piece in single + results:
        vocab.setdefault(piece, len(vocab))
    merges = [
        (piece[:cut], piece[cut:])
        for piece in results
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    lengths = {1, *runs}
    vocab |= {"▁" * length: len(vocab) + at for at, length in enumerate(runs)}
    cuts = [(cut, length - cut) for length in runs for cut in range(1, length)]
    cuts = sorted((pair for pair in cuts if set(pair) <= lengths), reverse=True)
    merges += [("▁" * left, "▁" * right) for left, right in cuts]
    content["model"] |= {
        "vocab": vocab,
        "merges": merges,
        "byte_fallback": True,
        "fuse_unk": True,
        "unk_token": "<unk>",
    }
    content["normalizer"] = {
        "type": "Sequence",
        "normalizers": ([{"type": "Prepend", "prepend": "▁"}] if prefix else [])
        + [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}],
    }
    content["pre_tokenizer"] = None
    content["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    specials = enumerate(("<unk>", "<s>", "</s>"))
    content["added_tokens"] = [{"id": number, "content": text, **flags} for number, text in specials]
    config = {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>", "add_bos_token": True}
    return Tokenizer(json.dumps(content), config)


def gemma() -> Tokenizer:
    """As Gemma's: no space before texts, runs of spaces and line breaks, none next to other characters."""
    content = json.loads(json.dumps(pieces(prefix=False).content))
    model = content["model"]
    kept = [piece for piece in model["vocab"] if piece == "\n" or ("\n" not in piece and "▁▁" not in piece)]
    merges = [pair for pair in model["merges"] if "".join(pair) in kept]
    runs = [char * length for char in ("\n", "▁") for length in (2, 3)]
    kept += runs
    merges = [[run[:cut], run[cut:]] for run in runs for cut in range(len(run) - 1, 0, -1)] + merges
    kept.append("<start_of_turn>")
    model |= {"vocab": {piece: number for number, piece in enumerate(kept)}, "merges": merges}
    content["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    content["pre_tokenizer"] = split
    del content["decoder"]["decoders"][-1]
    turn = content["added_tokens"][0] | {"id": len(kept) - 1, "content": "<start_of_turn>"}
    content["added_tokens"].append(turn)
    config = {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>", "add_bos_token": True}
    return Tokenizer(json.dumps(content), config)


def every_kind() -> dict[str, Tokenizer]:
    """Name of the split in llama.cpp -> a tokenizer that has it."""
    kinds = {split.name: byte_level(split.rules, split.whole_first) for split in SPLITS}
    kinds |= {"default": pieces(), "runs": pieces(runs=(2, 4, 3, 8, 5, 6))}
    return kinds | {"gemma": gemma(), "gemma4": gemma()}


def save(tokenizer: Tokenizer, directory: Path) -> Path:
    tokenizer.save(directory)
    return directory
