"""Byte-level BPE: train, load, save, encode, decode.

The files are those of Hugging Face; transformers is not needed.

Text never turns into a special token by accident: `encode` treats `<|im_start|>` in a document as ten
ordinary characters unless the caller says `allow_special=True`.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie.config.errors import DataError
from coterie.config.files import read_json, write_text

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|im_end|>"
SPECIALS = (
    END_OF_TEXT,
    "<|im_start|>",
    END_OF_TURN,
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
# The GPT-4 / Qwen2 split with every digit alone, so that numbers are spelt digit by digit.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CHATML = Path(__file__).parent / "templates" / "chatml.jinja"
# Turn ends that published chat models generate; whichever of them a vocabulary holds stops a reply.
_TURN_ENDS = (END_OF_TURN, "<|eot_id|>", "<|eot|>", "<|eom_id|>", "<end_of_turn>", "<|call|>")


class Tokenizer:
    """Text to token ids and back. Build one with `train` or `load`."""

    def __init__(self, tokenizer_json: str, config: dict[str, Any], chat_template: str | None = None) -> None:
        """From the text of tokenizer.json and the object of tokenizer_config.json. Errors: `DataError`."""
        import tokenizers

        self.chat_template = chat_template
        self._json, self._config = tokenizer_json, dict(config)
        content = json.loads(tokenizer_json)
        self._full: tokenizers.Tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        added = content.get("added_tokens") or []
        self._added = {token["content"]: int(token["id"]) for token in added}
        self.special_ids = frozenset(int(token["id"]) for token in added if token["special"])
        # A second object without control tokens, because switching one back and forth is not thread-safe.
        plain = {**content, "added_tokens": [token for token in added if not _is_control(token)]}
        self._plain: tokenizers.Tokenizer = tokenizers.Tokenizer.from_str(json.dumps(plain))
        decoder = json.dumps(content.get("decoder") or {})
        self._byte_level = '"ByteLevel"' in decoder
        self._strips_start = '"Strip"' in decoder
        eos = _content(self._config.get("eos_token")) or END_OF_TEXT
        if eos not in self._added:
            raise DataError(f"tokenizer: its eos token '{eos}' is not among its added tokens; set eos_token")
        self.eos_id = self._added[eos]

    @staticmethod
    def train(
        texts: Iterable[str],
        vocab_size: int,
        specials: Sequence[str] = SPECIALS,
        chat_template: str | None = None,
    ) -> Tokenizer:
        """Learn byte-level BPE merges from `texts`. `specials[0]` gets id 0: bos, eos, pad and separator.

        `chat_template=None` is the shipped ChatML. The vocabulary is smaller than `vocab_size` if the text
        has no more pairs to merge. Errors: `DataError` when `vocab_size` cannot hold the specials and 256
        bytes.
        """
        from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
        from tokenizers import Regex as TokenizersRegex
        from tokenizers import Tokenizer as Rust

        if vocab_size < 256 + len(specials):
            raise DataError(
                f"vocab_size {vocab_size} is too small; bytes and specials need {256 + len(specials)}"
            )
        rust = Rust(models.BPE())
        rust.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(TokenizersRegex(SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        rust.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(text, special=True, normalized=False) for text in specials],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        rust.train_from_iterator(texts, trainer)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": specials[0],
            "eos_token": specials[0],
            "pad_token": specials[0],
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1_000_000_000,
        }
        template = CHATML.read_text(encoding="utf-8") if chat_template is None else chat_template
        return Tokenizer(rust.to_str(), config, template)

    @staticmethod
    def load(directory: str | Path) -> Tokenizer:
        """Read a Hugging Face directory (tokenizer.json and its companions). Errors: `DataError`."""
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise DataError(
                f"{directory}: has no tokenizer.json; give a directory that a tokenizer was saved to"
            )
        config = {
            **_read_json(directory / "special_tokens_map.json"),
            **_read_json(directory / "tokenizer_config.json"),
        }
        template = directory / "chat_template.jinja"
        inline = config.pop("chat_template", None)
        try:
            chat = template.read_text(encoding="utf-8") if template.is_file() else inline
            return Tokenizer(
                path.read_text(encoding="utf-8"), config, chat if isinstance(chat, str) else None
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: is not a usable tokenizer ({' '.join(str(error).split())})") from None
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        except Exception as error:  # the Rust side raises plain Exception for content it cannot read
            raise DataError(f"{path}: is not a usable tokenizer ({' '.join(str(error).split())})") from None

    def save(self, directory: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja, each by rename."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        files = {
            "tokenizer.json": self._json,
            "tokenizer_config.json": json.dumps(self._config, indent=2, ensure_ascii=False) + "\n",
        }
        if self.chat_template is not None:
            files["chat_template.jinja"] = self.chat_template
        for name, text in files.items():
            write_text(directory / name, text)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Token ids, without bos or eos. Special tokens inside `text` stay text unless `allow_special`."""
        return self.encode_batch([text], allow_special)[0]

    def encode_batch(self, texts: Sequence[str], allow_special: bool = False) -> list[list[int]]:
        """`encode` of many texts, on all cores. Errors: `DataError` for text without a UTF-8 form."""
        rust = self._full if allow_special else self._plain
        try:
            encodings = rust.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:  # the Rust side raises it for a lone surrogate
            for number, text in enumerate(texts):
                _check_utf8(text, number)
            raise
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD. `skip_special`: without special tokens."""
        stream = StreamDecoder(self, skip_special)
        return "".join(stream.feed(int(token)) for token in ids) + stream.finish()

    def token_bytes(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes of each id; of a special token, those of its name.

        Errors: `DataError` for an id out of range.
        """
        table = self._bytes
        try:
            return [table[int(token)] for token in ids]
        except KeyError as error:
            raise DataError(f"token id {error} is not in the vocabulary of {self.vocab_size}") from None

    def num_bytes(self, ids: Iterable[int]) -> int:
        """Length in bytes of the text of `ids`; special tokens do not count."""
        return sum(len(part) for part in self.token_bytes(t for t in ids if int(t) not in self.special_ids))

    def token_id(self, text: str) -> int | None:
        """The id of an added token by its name, or None."""
        return self._added.get(text)

    @property
    def added_tokens(self) -> dict[str, int]:
        """Special and control tokens: name to id."""
        return dict(self._added)

    @property
    def named_tokens(self) -> dict[str, str]:
        """`bos_token`, `eos_token`... of the configuration, which chat templates may use."""
        named = {key: _content(value) for key, value in self._config.items() if key.endswith("_token")}
        return {key: value for key, value in named.items() if value is not None}

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a reply: end of text and end of turn."""
        return frozenset({self.eos_id, *(self._added[name] for name in _TURN_ENDS if name in self._added)})

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id: the fewest embedding rows that this tokenizer needs."""
        return max(self._full.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def sha256(self) -> str:
        """Hash of the content of tokenizer.json, which decides the ids; white space does not matter."""
        canonical = json.dumps(json.loads(self._json), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        vocabulary = self._full.get_vocab(with_added_tokens=False)
        spell = _spell_byte_level if self._byte_level else _spell_sentencepiece
        # Some published vocabularies have gaps, and a model can emit the ids in them.
        table = dict.fromkeys(range(self.vocab_size), b"")
        table.update({number: spell(piece) for piece, number in vocabulary.items()})
        table.update({number: name.encode() for name, number in self._added.items()})
        return table


class StreamDecoder:
    """Decodes ids one at a time into whole characters; the pieces add up to `decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = False) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = tokenizer._strips_start

    def feed(self, token: int) -> str:
        """The text that this id completes; empty in the middle of a character."""
        if self._skip and token in self._tokenizer.special_ids:
            return ""
        part = self._tokenizer.token_bytes([token])[0]
        if self._at_start and token not in self._tokenizer.special_ids:
            part, self._at_start = part.removeprefix(b" "), False
        return self._utf8.decode(part)

    def finish(self) -> str:
        """The rest: U+FFFD if the ids ended inside a character. The decoder can then be used again."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._at_start = self._tokenizer._strips_start
        return rest


def _check_utf8(text: str, number: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"text {number} cannot be encoded: {error.reason} at character {error.start}"
        ) from None


def _is_control(token: dict[str, Any]) -> bool:
    """Special tokens, and tags such as `<think>` that some tokenizers list as not special."""
    return bool(token["special"]) or token["content"].startswith(("<", "["))


def _content(token: Any) -> str | None:
    """The name of a token, which configurations write as text or as {"content": text}."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, error=DataError) if path.is_file() else {}


def _byte_of_char() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 and up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


_BYTES = _byte_of_char()


def _spell_byte_level(piece: str) -> bytes:
    if all(char in _BYTES for char in piece):
        return bytes(_BYTES[char] for char in piece)
    return piece.encode()


def _spell_sentencepiece(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()
