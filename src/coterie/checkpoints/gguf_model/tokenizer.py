"""The tokenizer of a GGUF file as `tokenizer.json`, with its configuration and chat templates.

A file holds tokens, their types, and merges or scores. It names how text is split and says nothing of
normalizers, decoders and flags of added tokens: these follow from the kind of tokenizer and from the split.
Where a file holds the whole tokenizer.json (`tokenizer.huggingface.json`), that is taken.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from coterie.checkpoints.gguf_model.pieces import equally_scored, piece_merges
from coterie.checkpoints.gguf_model.token_types import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from coterie.config import CheckpointError, DataError, suggest
from coterie.llamacpp.splits import BY_NAME, DIGITS, GPT2, Split
from coterie.text.template_sources import ChatTemplate, ChatTemplates
from coterie.text.tokenizer import Tokenizer

_GGML = "tokenizer.ggml."
WHOLE = "tokenizer.huggingface.json"
Json = dict[str, Any]


@dataclass
class TokenKeys:
    """What a file says about its tokenizer. `where`: the file. `notes`: what was lost or chosen."""

    where: str
    all: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a key of `tokenizer.ggml`."""
        return self.all.get(_GGML + name, default)

    def texts(self, name: str) -> list[str]:
        """A list of texts. Errors: `CheckpointError` where it is missing or something else."""
        value = self.get(name)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.refuse(f"'{_GGML}{name}' is not a list of texts")
        return value

    def token(self, name: str) -> int | None:
        """The id of a special token; None where the file names none. Errors: an id that no token has."""
        value = self.get(f"{name}_token_id")
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < len(self.texts("tokens")):
            if value in (-1, 0xFFFFFFFF):  # how converters write none
                return None
            raise self.refuse(f"'{_GGML}{name}_token_id' is {str(value)[:40]}, which no token has")
        return value

    def refuse(self, what: str) -> CheckpointError:
        """The error for a tokenizer that cannot be rebuilt."""
        return CheckpointError(
            f"{self.where}: {what}; take the original's tokenizer: coterie convert --tokenizer DIR"
        )


def read_tokenizer(keys: TokenKeys) -> Tokenizer | None:
    """The tokenizer; None for a file that holds none. Errors: `CheckpointError`, one line."""
    kind = keys.get("model")
    if kind in (None, "none"):
        return None
    if not isinstance(kind, str) or kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise keys.refuse(f"'{_GGML}model' is {kind!r:.60}; {known} are read here")
    tokens = keys.texts("tokens")
    types = keys.get("token_type", [NORMAL] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise keys.refuse(f"has {len(tokens)} tokens and other numbers of types")
    content = _whole(keys, tokens, types) or _KINDS[kind](keys, tokens, types)
    config = _config(keys, tokens)
    try:
        return Tokenizer(json.dumps(content, ensure_ascii=False), config, _templates(keys))
    except DataError as error:
        raise keys.refuse(str(error)) from None
    except Exception as error:  # the Rust side raises plain Exception for content it cannot read
        reason = " ".join(str(error).split())[:160]
        raise keys.refuse(f"its tokens make no usable tokenizer ({reason})") from None


def stop_ids(keys: TokenKeys) -> list[int]:
    """The tokens that end a reply: end of text, of a turn, of a message."""
    found = (keys.token(name) for name in ("eos", "eot", "eom"))
    return sorted({number for number in found if number is not None})


def _whole(keys: TokenKeys, tokens: list[str], types: list[int]) -> Json | None:
    """The tokenizer.json that the file holds, if its tokens are those of the file."""
    text = keys.all.get(WHOLE)
    if not isinstance(text, str):
        return None
    try:
        content: Json = json.loads(text)
        found = {int(number): token for token, number in content["model"]["vocab"].items()}
        found |= {int(token["id"]): str(token["content"]) for token in content.get("added_tokens") or []}
        same = all(found.get(n) == token for n, token in enumerate(tokens) if types[n] != UNUSED)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        same = False
    if same and len(found) <= len(tokens):
        return content
    keys.notes.append(f"'{WHOLE}' has other tokens than the file's vocabulary and was not used")
    return None


def _byte_level(keys: TokenKeys, tokens: list[str], types: list[int]) -> Json:
    """Byte-level BPE: merges in order, text split as `tokenizer.ggml.pre` names it."""
    split = _split(keys)
    composed = str(keys.all.get("general.architecture")) in split.composed
    if composed:
        keys.notes.append(
            "brings text into Unicode's composed form (NFC), as the published tokenizers of this "
            "architecture do; a GGUF file cannot say so"
        )
    merges = [_pair(keys, merge) for merge in keys.texts("merges")]
    steps: list[Json] = []
    for rule in split.rules:
        if rule == DIGITS:
            steps.append({"type": "Digits", "individual_digits": True})
        elif rule != GPT2:
            steps.append(
                {"type": "Split", "pattern": {"Regex": rule}, "behavior": "Isolated", "invert": False}
            )
    bytes_of: Json = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps.append(bytes_of | {"use_regex": GPT2 in split.rules})
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": split.whole_first,
        "vocab": _vocab(keys, tokens, types),
        "merges": merges,
    }
    return _json(
        keys,
        tokens,
        types,
        model,
        starts=split.starts,
        normalizer={"type": "NFC"} if composed else None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": steps},
        decoder=bytes_of | {"use_regex": True},
    )


def _split(keys: TokenKeys) -> Split:
    name = keys.get("pre")
    if name is None or name == "default":
        raise keys.refuse("does not say how its tokenizer splits text (an old file)")
    if name not in BY_NAME:
        hint = suggest(str(name), BY_NAME) or f" (known: {', '.join(sorted(BY_NAME))})"
        raise keys.refuse(f"splits text as '{str(name)[:60]}', which is not known here{hint}")
    return BY_NAME[name]


def _pair(keys: TokenKeys, merge: str) -> list[str]:
    at = merge.find(" ", 1)
    if at < 1 or at == len(merge) - 1:
        raise keys.refuse(f"the merge {merge!r:.60} has no two parts")
    return [merge[:at], merge[at + 1 :]]


def _sentencepiece(keys: TokenKeys, tokens: list[str], types: list[int]) -> Json:
    """SentencePiece-like BPE: the pair with the best-scored result merges first; bytes as a fallback."""
    scores = keys.get("scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise keys.refuse("has no score for every token")
    if keys.get("remove_extra_whitespaces"):
        raise keys.refuse("removes white space from text, which is not read here")
    prefix = bool(keys.get("add_space_prefix", True))
    marked: set[str] = set()
    if not prefix:  # SentencePiece looks for these in marked text, and files hold them unmarked
        spaced = [kind == USER_DEFINED and " " in text for text, kind in zip(tokens, types, strict=True)]
        tokens = [text.replace(" ", "▁") if one else text for text, one in zip(tokens, spaced, strict=True)]
        marked = {text for text, one in zip(tokens, spaced, strict=True) if one}
    merges = piece_merges(tokens, types, scores)
    equal = equally_scored(merges, dict(zip(tokens, scores, strict=True)))
    if equal is not None:
        keys.notes.append(
            f"the pieces {equal[0]!r:.40} and {equal[1]!r:.40} have equal scores, of which llama.cpp makes "
            "the leftmost first; here the order is fixed, and some texts get other ids"
        )
    return _of_pieces(keys, tokens, types, merges, prefix, marked)


def _gemma4(keys: TokenKeys, tokens: list[str], types: list[int]) -> Json:
    """The same with merges in order: Gemma 4's kind."""
    merges = [_pair(keys, merge) for merge in keys.texts("merges")]
    return _of_pieces(keys, tokens, types, merges, prefix=False)


def _of_pieces(
    keys: TokenKeys,
    tokens: list[str],
    types: list[int],
    merges: list[list[str]],
    prefix: bool,
    marked: Collection[str] = (),
) -> Json:
    """BPE on text whose spaces are marked. `prefix`: with one mark more before the text."""
    unknown = keys.token("unknown")
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in tokens]
    if missing:
        raise keys.refuse(f"falls back to bytes but has no piece '<0x{missing[0]:02X}>'")
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if unknown is None else tokens[unknown],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": _vocab(keys, tokens, types),
        "merges": merges,
    }
    before: list[Json] = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    before.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    decoders: list[Json] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return _json(
        keys,
        tokens,
        types,
        model,
        starts=True,
        marked=marked,
        normalizer={"type": "Sequence", "normalizers": before},
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": decoders},
    )


_KINDS = {"gpt2": _byte_level, "llama": _sentencepiece, "gemma4": _gemma4}


def _vocab(keys: TokenKeys, tokens: list[str], types: list[int]) -> dict[str, int]:
    """Text -> id of all tokens but the padding that only fills rows of the embedding."""
    found: dict[str, int] = {}
    for number, text in enumerate(tokens):
        if types[number] == UNUSED and text == f"[PAD{number}]":
            continue
        if text in found:
            raise keys.refuse(f"the token {text!r:.60} is there twice")
        found[text] = number
    return found


def _json(
    keys: TokenKeys,
    tokens: list[str],
    types: list[int],
    model: Json,
    starts: bool,
    marked: Collection[str] = (),
    **parts: Any,
) -> Json:
    """The whole tokenizer.json.

    `starts`: whether texts begin with bos where the file is silent. `marked`: added tokens that are looked
    for in text whose spaces are marked.
    """
    named = {keys.token(name) for name in ("bos", "eos", "eot", "eom", "unknown", "padding")}
    added = []
    for number, text in enumerate(tokens):
        special = types[number] in (CONTROL, UNKNOWN) or number in named
        if special or types[number] == USER_DEFINED:
            flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": special}
            added.append({"id": number, "content": text, **flags, "normalized": text in marked})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        **parts,
        "post_processor": _post_processor(keys, tokens, starts),
        "model": model,
    }


def _post_processor(keys: TokenKeys, tokens: list[str], starts: bool) -> Json | None:
    """The template that puts the start and the end token around texts; None where it would put nothing."""
    ends = [
        keys.token(name) if keys.get(f"add_{name}_token", default) else None
        for name, default in (("bos", starts), ("eos", False))
    ]
    if ends == [None, None]:
        return None

    def around(*texts: str) -> list[Json]:
        parts: list[Json] = []
        for type_id, text in enumerate(texts):
            pieces: list[Json] = [{"Sequence": {"id": text, "type_id": type_id}}]
            for at, number in ((0, ends[0]), (len(pieces) + 1, ends[1])):
                if number is not None:
                    pieces.insert(at, {"SpecialToken": {"id": tokens[number], "type_id": type_id}})
            parts += pieces
        return parts

    return {
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": around("A", "B"),
        "special_tokens": {
            tokens[number]: {"id": tokens[number], "ids": [number], "tokens": [tokens[number]]}
            for number in ends
            if number is not None
        },
    }


def _config(keys: TokenKeys, tokens: list[str]) -> Json:
    """The content of tokenizer_config.json."""
    eos = keys.token("eos")
    if eos is None:
        raise keys.refuse(f"has no key '{_GGML}eos_token_id'")
    config: Json = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        number = keys.token(theirs)
        if number is not None:
            config[f"{ours}_token"] = tokens[number]
    for end in ("bos", "eos"):
        adds = keys.get(f"add_{end}_token")
        if adds is not None:
            config[f"add_{end}_token"] = bool(adds)
    return config


def _templates(keys: TokenKeys) -> ChatTemplates | None:
    """The chat templates of the file: the default one and those with a name."""
    prefix = "tokenizer.chat_template"
    named = {
        name.removeprefix(f"{prefix}."): value
        for name, value in keys.all.items()
        if name.startswith(f"{prefix}.") and isinstance(value, str)
    }
    default = keys.all.get(prefix)
    if isinstance(default, str):
        named["default"] = default
    if not named:
        return None
    return ChatTemplates({name: ChatTemplate(text, keys.where) for name, text in named.items()})
