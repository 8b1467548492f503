"""A `tokenizer.json` for llama.cpp: tokens, merges or scores, types, and how text is split before merging.

llama.cpp knows splits by name and has their rules built in. A tokenizer is exported only if its split is one
of those; any other would silently give other ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coterie.checkpoints.checkpoint import Checkpoint
from coterie.checkpoints.gguf_model.token_types import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from coterie.checkpoints.gguf_model.tokenizer import WHOLE
from coterie.config import CheckpointError
from coterie.gguf.sentencepiece import sentencepiece_merges, sentencepiece_scores
from coterie.llamacpp.splits import DIGITS, GPT2, SPLITS
from coterie.text.tokenizer import SPECIALS, Tokenizer

# Marks of reasoning and tool calls. Programs around llama.cpp look for them in the reply's text, which never
# contains control tokens, so they are written as user-defined tokens (as in Qwen3's own files).
_TAGS = tuple(text for text in SPECIALS if not text.startswith("<|"))
# Tokens at which llama.cpp stops, whatever the file says.
_KNOWN_ENDS = frozenset(
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <end_of_turn> <|endoftext|> </s> <|eom_id|> "
    "<|end_of_text|>".split()
)


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer for llama.cpp.

    `keys`: of the file. `pre`: llama.cpp's name of the split. `differences`: what it tokenises differently.
    """

    keys: dict[str, Any]
    pre: str
    differences: tuple[str, ...]


def vocabulary(
    checkpoint: Checkpoint, vocab_size: int, pieces: Literal["llama", "gemma4"] = "llama"
) -> Vocabulary:
    """The tokenizer of a checkpoint for a model whose embedding has `vocab_size` rows.

    `pieces`: the kind that the architecture has of SentencePiece-like tokenizers.
    Errors: `CheckpointError` for a missing tokenizer, and for one that llama.cpp would not follow.
    """
    tokenizer = checkpoint.tokenizer
    if tokenizer is None:
        raise CheckpointError(
            f"{checkpoint.path}: has no tokenizer.json, and llama.cpp needs the tokenizer to run a model"
        )
    path = checkpoint.path if checkpoint.gguf is not None else checkpoint.path / "tokenizer.json"
    content = tokenizer.content
    model = content["model"]
    if model.get("type") not in (None, "BPE"):
        raise _refuse(path, f"is a {model['type']} tokenizer; only BPE has a form in GGUF here")
    tokens, types = _tokens(path, content, tokenizer, vocab_size)
    keys: dict[str, Any] = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    differences: list[str] = []
    if model.get("byte_fallback") and pieces == "gemma4":
        pre = "gemma4"
        keys |= {"tokenizer.ggml.model": "gemma4", "tokenizer.ggml.pre": pre}
        keys |= sentencepiece_merges(path, content, differences)
    elif model.get("byte_fallback"):
        pre = "default"
        keys |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": pre}
        keys |= sentencepiece_scores(path, content, tokens, differences)
    else:
        pre = _split_name(path, content, differences)
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        if not merges:
            raise CheckpointError(f"{path}: has no merges, which llama.cpp needs")
        keys |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.merges": merges}
    keys |= _special(checkpoint, tokenizer, content, differences)
    if pre == "gemma4" and not keys["tokenizer.ggml.add_bos_token"]:
        differences.append("llama.cpp puts the start token before every text with this kind of tokenizer")
    keys[WHOLE] = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    if tokenizer.chat_template is not None:
        keys["tokenizer.chat_template"] = tokenizer.chat_template
    added = content.get("added_tokens") or []
    tags = [token["content"] for token in added if token["special"] and token["content"] in _TAGS]
    if tags:
        differences.append(
            f"llama.cpp shows {' '.join(tags)} in replies, and reads them as tokens everywhere in a text"
        )
    for token in added:
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            differences.append(f"llama.cpp leaves the white space around '{token['content']}' as it is")
    return Vocabulary(keys, pre, tuple(differences))


def _refuse(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}; llama.cpp would give other ids, so nothing was written")


def _tokens(
    path: Path, content: Mapping[str, Any], tokenizer: Tokenizer, vocab_size: int
) -> tuple[list[str], list[int]]:
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(f"{path}: has {tokenizer.vocab_size} tokens but the model only {vocab_size}")
    tokens: list[str | None] = [None] * vocab_size
    types = [UNUSED] * vocab_size
    fallback = bool(content["model"].get("byte_fallback"))
    for text, number in content["model"]["vocab"].items():
        is_byte = fallback and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
        tokens[number], types[number] = text, BYTE if is_byte else NORMAL
    unknown = content["model"].get("unk_token")
    for token in content.get("added_tokens") or []:
        number = int(token["id"])
        tokens[number] = token["content"]
        control = token["special"] and token["content"] not in _TAGS
        types[number] = UNKNOWN if token["content"] == unknown else CONTROL if control else USER_DEFINED
    texts = [f"[PAD{number}]" if text is None else text for number, text in enumerate(tokens)]
    if len(set(texts)) != len(texts):
        double = next(text for text in texts if texts.count(text) > 1)
        raise CheckpointError(f"{path}: the token {double!r} occurs twice, which GGUF does not allow")
    return texts, types


def _split_name(path: Path, content: Mapping[str, Any], differences: list[str]) -> str:
    normalizer = content.get("normalizer")
    kinds = [step.get("type") for step in _steps(normalizer, "normalizers")]
    if kinds and set(kinds) <= {"NFC"}:
        differences.append(
            "llama.cpp does not bring text into Unicode's composed form (NFC); give it text that is"
        )
    elif kinds:
        raise _refuse(path, f"changes text by '{kinds[0]}' before splitting it")
    rules = []
    steps = _steps(content.get("pre_tokenizer"), "pretokenizers")
    for step in steps:
        rules += _rules(path, step)
    if not steps or steps[-1].get("type") != "ByteLevel":
        raise _refuse(path, "is neither byte-level nor falls back to bytes")
    names = {one.whole_first: one.name for one in reversed(SPLITS) if one.rules == tuple(rules)}
    if not names:
        raise _refuse(path, f"splits text by rules that llama.cpp does not have ({' '.join(rules)[:60]})")
    if any("\\p{Lu}" in rule for rule in rules):
        differences.append(
            "when splitting, llama.cpp knows capitals of ASCII only and takes separate accents from letters"
        )
    whole_first = bool(content["model"].get("ignore_merges"))
    if whole_first not in names:
        _check_reachable(path, content)
        whole_first = not whole_first
    return names[whole_first]


def _steps(part: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    return list(part[key]) if part.get("type") == "Sequence" else [part]


def _rules(path: Path, step: Mapping[str, Any]) -> list[str]:
    kind = step.get("type")
    if kind == "ByteLevel":
        if step.get("add_prefix_space"):
            raise _refuse(path, "puts a space before every text (add_prefix_space)")
        return [GPT2] if step.get("use_regex", True) else []
    if kind == "Digits" and step.get("individual_digits"):
        return [DIGITS]
    regex = (step.get("pattern") or {}).get("Regex")
    if kind != "Split" or regex is None or step.get("behavior") != "Isolated" or step.get("invert"):
        raise _refuse(path, f"splits text by a '{kind}' that llama.cpp does not have")
    return [regex.replace("\r", r"\r").replace("\n", r"\n")]


def _check_reachable(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse unless whole words first makes no difference: merging a token's own bytes gives the token."""
    import tokenizers

    model = {**content["model"], "ignore_merges": False}
    plain = {**content, "model": model, "normalizer": None, "pre_tokenizer": None, "added_tokens": []}
    plain |= {"post_processor": None, "decoder": None}
    merger = tokenizers.Tokenizer.from_str(json.dumps(plain))
    added = {token["content"] for token in content.get("added_tokens") or []}
    texts = [text for text in model["vocab"] if text not in added]
    for text, encoding in zip(texts, merger.encode_batch(texts, add_special_tokens=False), strict=True):
        if encoding.tokens != [text]:
            raise _refuse(path, f"has the token {text!r}, which its merges do not make (ignore_merges)")


def _special(
    checkpoint: Checkpoint, tokenizer: Tokenizer, content: Mapping[str, Any], differences: list[str]
) -> dict[str, Any]:
    named = {key: tokenizer.token_id(text) for key, text in tokenizer.named_tokens.items()}
    keys: dict[str, Any] = {"tokenizer.ggml.eos_token_id": tokenizer.eos_id}
    for ours, theirs in (("bos_token", "bos"), ("pad_token", "padding"), ("unk_token", "unknown")):
        if named.get(ours) is not None:
            keys[f"tokenizer.ggml.{theirs}_token_id"] = named[ours]
    for end in ("bos", "eos"):
        adds = tokenizer.config.get(f"add_{end}_token")
        keys[f"tokenizer.ggml.add_{end}_token"] = _template_adds(content, end) if adds is None else bool(adds)
    template = tokenizer.chat_template
    if keys["tokenizer.ggml.add_bos_token"] and template is not None and "bos_token" not in template:
        # llama.cpp would put it before conversations too, whose template writes none.
        keys["tokenizer.ggml.add_bos_token"] = False
    if "tokenizer.ggml.bos_token_id" not in keys:
        # llama.cpp would take token 11 for it.
        keys |= {"tokenizer.ggml.bos_token_id": tokenizer.eos_id, "tokenizer.ggml.add_bos_token": False}
    return keys | _ends(checkpoint.stops, tokenizer, differences)


def _ends(stops: Sequence[int], tokenizer: Tokenizer, differences: list[str]) -> dict[str, Any]:
    """The end of a turn, if that is not the end of text; other stops unknown to llama.cpp are differences."""
    names = {number: text for text, number in tokenizer.added_tokens.items()}
    others = [number for number in stops if number != tokenizer.eos_id and names.get(number) != "<|eom_id|>"]
    turn_ends = [number for number in others if number in tokenizer.stop_ids] or others
    for number in others:
        if number not in turn_ends[:1] and names.get(number) not in _KNOWN_ENDS:
            differences.append(f"llama.cpp does not stop at token {number} ({names.get(number)}) by itself")
    return {"tokenizer.ggml.eot_token_id": turn_ends[0]} if turn_ends else {}


def _template_adds(content: Mapping[str, Any], end: str) -> bool:
    """Whether the post-processor puts a special token before (bos) or after (eos) a single text."""
    for step in _steps(content.get("post_processor"), "processors"):
        single = step.get("single") or []
        if step.get("type") == "TemplateProcessing" and single:
            return "SpecialToken" in single[0 if end == "bos" else -1]
    return False
