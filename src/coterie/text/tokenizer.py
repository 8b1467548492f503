"""Text to token ids and back: train, load, save, encode, decode.

The files are those of Hugging Face; transformers is not needed, and the ids are the ones that it gives.

Text never turns into a special token by accident: `encode` treats `<|im_start|>` in a document as ten
ordinary characters unless the caller says `allow_special=True`. Added tokens that are not special are ids in
any text.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie.config.errors import DataError
from coterie.config.files import present, read_json, write_text
from coterie.text.added_tokens import add_configured, check_ids, content_of, control_names, whole_config
from coterie.text.guarded import Encoded, GuardedEncoder, names_pattern
from coterie.text.rebuilt import QWEN2_SPLIT, notes_on_class
from coterie.text.spelling import spell_byte_level, spell_sentencepiece
from coterie.text.template_sources import ChatTemplates, read_templates, write_templates

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
SPLIT = QWEN2_SPLIT  # numbers are spelt digit by digit
CHATML = Path(__file__).parent / "templates" / "chatml.jinja"
# Turn ends that published chat models generate; whichever of them a vocabulary holds stops a reply.
_TURN_ENDS = (END_OF_TURN, "<|eot_id|>", "<|eot|>", "<|eom_id|>", "<end_of_turn>", "<|call|>")


class Tokenizer:
    """Text to token ids and back. Build one with `train` or `load`."""

    def __init__(
        self,
        tokenizer_json: str,
        config: dict[str, Any],
        chat_template: str | ChatTemplates | None = None,
    ) -> None:
        """From the text of tokenizer.json and the object of tokenizer_config.json. Errors: `DataError`."""
        import tokenizers

        given = chat_template
        self.templates = given if isinstance(given, ChatTemplates) else ChatTemplates.of(given)
        self._config = dict(config)
        check_ids(tokenizer_json)
        self._full: tokenizers.Tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        self._full.no_truncation()  # a length that a file asks for would cut texts without a word
        self._full.no_padding()
        changed = add_configured(self._full, self._config)
        self._json = self._full.to_str() if changed else tokenizer_json
        added = self._full.get_added_tokens_decoder()
        self._added = {token.content: int(number) for number, token in added.items()}
        self._special = {token.content: bool(token.special) for token in added.values()}
        self.special_ids = frozenset(int(number) for number, token in added.items() if token.special)
        # Made when they are needed, one for each set of control tokens: they take as long as loading.
        self._control: dict[str | None, frozenset[str]] = {}
        self._guards: dict[frozenset[str], GuardedEncoder] = {}
        content = json.loads(self._json)
        decoder = json.dumps(content.get("decoder") or {})
        self._byte_level = '"ByteLevel"' in decoder
        self._starts_with_space = '"Strip"' in decoder or (
            '"Metaspace"' in decoder and '"never"' not in decoder
        )
        #: The tokens that the tokenizer itself puts before a text.
        self.start_ids = _start_ids(self._full)
        # Offsets are those of the characters of a token: a post-processor of ByteLevel leaves out its spaces.
        self._full.post_processor = None
        eos = content_of(self._config.get("eos_token")) or END_OF_TEXT
        if eos not in self._added:
            raise DataError(f"tokenizer: its eos token '{eos}' is not among its added tokens; set eos_token")
        self.eos_id = self._added[eos]

    @staticmethod
    def train(
        texts: Iterable[str],
        vocab_size: int,
        specials: Sequence[str] = SPECIALS,
        chat_template: str | None = None,
        starts_texts: bool = False,
    ) -> Tokenizer:
        """Learn byte-level BPE merges from `texts`. `specials[0]` gets id 0: bos, eos, pad and separator.

        `chat_template=None` is the shipped ChatML. `starts_texts`: the tokenizer puts `specials[0]` before a
        text, here and in transformers, as before each document of pretraining. The vocabulary is smaller
        than `vocab_size` if the text has no more pairs to merge. Errors: `DataError` when `vocab_size` cannot
        hold the specials and 256 bytes.
        """
        from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
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
        if starts_texts:
            first = specials[0]
            rust.post_processor = processors.TemplateProcessing(
                single=f"{first} $A", pair=f"{first} $A $B", special_tokens=[(first, 0)]
            )
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": specials[0],
            "eos_token": specials[0],
            "pad_token": specials[0],
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
        if not present(path, DataError):
            raise DataError(
                f"{directory}: has no tokenizer.json; give a directory that a tokenizer was saved to"
            )
        names = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
        config = whole_config(*(_read_json(directory / name) for name in names))
        templates = read_templates(directory, config.pop("chat_template", None))
        try:
            return Tokenizer(path.read_text(encoding="utf-8"), config, templates)
        except (ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{path}: is not a usable tokenizer ({reason})") from None
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        except Exception as error:  # the Rust side raises plain Exception for content it cannot read
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{path}: is not a usable tokenizer ({reason})") from None

    def save(self, directory: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and the chat templates, each by rename."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        files = {
            "tokenizer.json": self._json,
            "tokenizer_config.json": json.dumps(self._config, indent=2, ensure_ascii=False) + "\n",
        }
        for name, text in files.items():
            write_text(directory / name, text)
        write_templates(directory, self.templates)

    @property
    def content(self) -> dict[str, Any]:
        """The content of tokenizer.json."""
        return dict(json.loads(self._json))

    @property
    def config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json and of the files that older versions split off from it."""
        return dict(self._config)

    @property
    def chat_template(self) -> str | None:
        """The chat template for conversations without tools; setting it replaces the named ones too."""
        return self.templates.default

    @chat_template.setter
    def chat_template(self, text: str | None) -> None:
        self.templates = ChatTemplates.of(text)

    def template_for(self, tools: bool) -> str:
        """The chat template for a conversation with or without tools. Errors: `DataError` for none."""
        return self.templates.choose(tools)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Token ids, without start or end. Special tokens inside `text` stay text unless `allow_special`."""
        return self.encode_batch([text], allow_special)[0]

    def encode_batch(self, texts: Sequence[str], allow_special: bool = False) -> list[list[int]]:
        """`encode` of many texts, on all cores. Errors: `DataError` for text without a UTF-8 form."""
        with _only_utf8(texts):
            if allow_special or not self.special_ids:
                found = self._full.encode_batch_fast(list(texts), add_special_tokens=False)
                return [encoding.ids for encoding in found]
            control = self.control_tokens()
            plain = frozenset(name for name in control if not self._special[name])
            return self._guard(control).encode_batch(texts, plain)

    def encode_places(
        self, text: str, is_token: Callable[[str, int], bool] | None = None, template: str | None = None
    ) -> Encoded:
        """Token ids with the characters that each stands for. By default every name in `text` is a token.

        `is_token(name, place)`: whether a control token (of `control_tokens(template)`) at this place is one.
        Errors: `DataError` for text without a UTF-8 form.
        """
        with _only_utf8([text]):
            if is_token is not None:
                return self._guard(self.control_tokens(template)).encode(text, is_token)
            encoding = self._full.encode(text, add_special_tokens=False)
            return Encoded(encoding.ids, encoding.offsets)

    def control_tokens(self, template: str | None = None) -> frozenset[str]:
        """The names that are control tokens in conversations of this template (None: the tokenizer's own).

        Special tokens, and added tokens that the template writes, as `added_tokens.control_names` tells.
        """
        template = self.chat_template if template is None else template
        if template not in self._control:
            listed = self._config.get("chat_control_tokens")
            self._control[template] = control_names(self._special, template, listed)
        return self._control[template]

    def special_names_in(self, text: str) -> list[str]:
        """The special tokens whose names stand in `text`, which `encode` reads as text, in their order."""
        found = dict.fromkeys(names_pattern(frozenset(self._added)).findall(text))
        return [name for name in found if self._special[name]]

    def is_special(self, name: str) -> bool:
        """Whether `name` is a special token."""
        return self._special.get(name, False)

    def _guard(self, control: frozenset[str]) -> GuardedEncoder:
        if control not in self._guards:
            self._guards[control] = GuardedEncoder(self._full.to_str(), control, self._added)
        return self._guards[control]

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
        named = {key: content_of(value) for key, value in self._config.items() if key.endswith("_token")}
        return {key: value for key, value in named.items() if value is not None}

    @cached_property
    def document_start(self) -> tuple[int, ...]:
        """What stands before a document in a stream of documents, and so also ends the one before it.

        `start_ids`; where the tokenizer puts nothing before a text, its `<|endoftext|>`, or else its eos.
        """
        return self.start_ids or (self._added.get(END_OF_TEXT, self.eos_id),)

    def notes_on_class(self, model_type: str) -> list[str]:
        """Where transformers gives other ids because of the tokenizer's class, for a model of this type."""
        return notes_on_class(self._config, self._json, model_type)

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
        spell = spell_byte_level if self._byte_level else spell_sentencepiece
        # Some published vocabularies have gaps, and a model can emit the ids in them.
        table = dict.fromkeys(range(self.vocab_size), b"")
        table.update({number: spell(piece) for piece, number in vocabulary.items()})
        # A name is text as it is written, but for SentencePiece's mark of a space.
        names = {
            n: name if self._byte_level else name.replace("\u2581", " ") for name, n in self._added.items()
        }
        table.update({number: name.encode() for number, name in names.items()})
        return table


class StreamDecoder:
    """Decodes ids one at a time into whole characters; the pieces add up to `decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = False) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = tokenizer._starts_with_space

    def feed(self, token: int) -> str:
        """The text that this id completes; empty in the middle of a character."""
        if self._skip and token in self._tokenizer.special_ids:
            return ""
        part = self._tokenizer.token_bytes([token])[0]
        if self._at_start:
            part, self._at_start = part.removeprefix(b" "), False
        return self._utf8.decode(part)

    def finish(self) -> str:
        """The rest: U+FFFD if the ids ended inside a character. The decoder can then be used again."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._at_start = self._tokenizer._starts_with_space
        return rest


@contextlib.contextmanager
def _only_utf8(texts: Sequence[str]) -> Iterator[None]:
    """Turns the error of the Rust side for a lone surrogate into a `DataError` with its place."""
    try:
        yield
    except TypeError:
        for number, text in enumerate(texts):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"text {number} cannot be encoded: {error.reason} at character {error.start}"
                ) from None
        raise


def _start_ids(rust: tokenizers.Tokenizer) -> tuple[int, ...]:
    """What the tokenizer puts before a text by itself: the tokens that its post-processor adds there."""
    encoding = rust.encode("a", add_special_tokens=True)
    marks = encoding.special_tokens_mask
    count = marks.index(0) if 0 in marks else 0
    return tuple(encoding.ids[:count])


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, error=DataError) if present(path, DataError) else {}
