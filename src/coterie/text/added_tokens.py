"""Added tokens: those that other files than tokenizer.json name, and which of them are control tokens.

`tokenizer.json` alone decides the ids in most directories. Others name tokens in `tokenizer_config.json`
(`added_tokens_decoder`, `additional_special_tokens`, `extra_special_tokens`, `eos_token`...), in
`special_tokens_map.json` or in `added_tokens.json`. They are merged in the order of transformers 5
(`tokenization_utils_base._from_pretrained`, `TokenizersBackend.__init__`), so that the ids are the same.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from coterie.config.errors import DataError

if TYPE_CHECKING:
    import tokenizers

_MOST_IDS = 2**26  # as `ModelConfig` limits an embedding
_LONG_NUMBER = re.compile(r":\s*\d{9}")
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def content_of(token: Any) -> str | None:
    """The name of a token, which configurations write as text or as {"content": text}."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def whole_config(
    config: Mapping[str, Any], special_tokens_map: Mapping[str, Any], added_tokens: Mapping[str, Any]
) -> dict[str, Any]:
    """tokenizer_config.json with what the older files next to it add.

    A config with `added_tokens_decoder` is complete, and transformers reads no other file then. Without one,
    `special_tokens_map.json` wins over the config. `added_tokens`: the content of added_tokens.json.
    """
    if "added_tokens_decoder" in config:
        return dict(config)
    whole = {**config, **special_tokens_map}
    special = {content_of(whole.get(name)) for name in _NAMES} | set(map(content_of, _extras(whole)))
    decoder = {
        str(number): {
            "content": text,
            "lstrip": False,
            "rstrip": False,
            "normalized": text not in special,
            "special": text in special,
        }
        for text, number in added_tokens.items()
    }
    return {**whole, "added_tokens_decoder": decoder} if decoder else whole


def add_configured(rust: tokenizers.Tokenizer, config: Mapping[str, Any]) -> bool:
    """Give `rust` the tokens that `config` (`whole_config`) names and that it lacks. Whether it changed."""
    from tokenizers import AddedToken

    def made(token: Any, special: bool) -> AddedToken:
        if not isinstance(token, Mapping):
            return AddedToken(token, special=True)
        flags = {flag: bool(token[flag]) for flag in _FLAGS if flag in token}
        return AddedToken(token["content"], **{"special": special, **flags})

    before = [repr(token) for token in rust.get_added_tokens_decoder().values()]
    decoder = config.get("added_tokens_decoder") or {}
    listed = {content_of(token): token for token in decoder.values()}
    names = [content_of(config.get(name)) for name in _named(config)]
    wanted: list[Any] = []
    for _, token in sorted(decoder.items(), key=lambda item: int(item[0])):
        new = made(token, False)
        # A token that tokenizer.json writes otherwise is taken from the config, as transformers does.
        if repr(new) not in before:
            new.special = new.special or new.content in names
            wanted.append(new)
    known = {token.content for token in rust.get_added_tokens_decoder().values()}
    known |= {token.content for token in wanted}
    others: list[Any] = []
    for token in (*(config[name] for name in _named(config)), *_extras(config)):
        name = content_of(token)
        # A name after the same token with flags is added again, without them, as transformers does.
        if name is not None and name not in known and token not in others:
            others.append(token)
            wanted.append(made(listed.get(name, token), True))
    rust.add_tokens(wanted)
    return before != [repr(token) for token in rust.get_added_tokens_decoder().values()]


def control_names(tokens: Mapping[str, bool], template: str | None, listed: Any = None) -> frozenset[str]:
    """Which added tokens are control tokens; `tokens`: name -> whether it is special.

    The rule of transformers' `sanitize_control_tokens`: special tokens, and those that `listed`
    (`chat_control_tokens` of the config) names or, without such a list, that the chat template writes itself.
    White space that is a token, such as Gemma's, is ordinary text.
    """
    chosen = frozenset(listed) if isinstance(listed, list | tuple) else None
    words = "" if template is None or chosen is not None else _literals(template)

    def written(name: str) -> bool:
        return name in chosen if chosen is not None else name in words and not name.isspace()

    return frozenset(name for name, special in tokens.items() if special or written(name))


@functools.lru_cache(maxsize=64)
def _literals(template: str) -> str:
    """What a template writes itself: its text and its constants, with NUL between them."""
    import jinja2  # slow to import
    from jinja2 import nodes

    source = re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", template)
    try:
        tree = jinja2.Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]).parse(source)
    except (jinja2.TemplateError, RecursionError, MemoryError):
        return template  # rendering refuses it; until then any token in it counts as its own
    texts = [node.data for node in tree.find_all(nodes.TemplateData)]
    texts += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return "\0".join(texts)


def _named(config: Mapping[str, Any]) -> list[str]:
    """The keys that name one token, in the order of transformers."""
    others = [key for key in config if key.endswith("_token") and key not in _NAMES]
    return [key for key in (*_NAMES, *others) if content_of(config.get(key)) is not None]


def _extras(config: Mapping[str, Any]) -> list[Any]:
    found = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    return list(found.values()) if isinstance(found, Mapping) else list(found)


def check_ids(tokenizer_json: str) -> None:
    """Refuse ids that no embedding has: tokenizers takes minutes and gigabytes to count up to them.

    Errors: `DataError` naming the token.
    """
    if _LONG_NUMBER.search(tokenizer_json) is None:
        return
    content = json.loads(tokenizer_json)
    model, added = content.get("model"), content.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocab.items()) if isinstance(vocab, dict) else []
    ids += [(str(token.get("content")), token.get("id")) for token in added or () if isinstance(token, dict)]
    for token, number in ids:
        if isinstance(number, int) and number >= _MOST_IDS:
            raise DataError(
                f"tokenizer: the id of '{token[:60]}' is {number:,}; {_MOST_IDS - 1:,} is the largest"
            )
