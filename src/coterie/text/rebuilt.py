"""Tokenizer classes that transformers 5 builds from code, whatever tokenizer.json says of them.

Coterie reads tokenizer.json, as `tokenizers` and other programs do. Where the two give other ids, a note says
so: `TokenizersBackend.convert_to_native_format` takes only the vocabulary, the merges and the post-processor
from the file for a class that has its own code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# The split of Qwen2Tokenizer (`PRETOKENIZE_REGEX`): that of GPT-4 with every digit alone.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# Model types for which `AutoTokenizer` uses the class; for most others it uses tokenizer.json whatever the
# class is called.
_USED_FOR = {
    "LlamaTokenizer": ("", "llama"),
    "Qwen2Tokenizer": ("", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next"),
}


def notes_on_class(config: Mapping[str, Any], tokenizer_json: str, model_type: str) -> list[str]:
    """A line for each setting with which transformers gives other ids than tokenizer.json.

    `config`: the content of tokenizer_config.json. `model_type`: of config.json.
    """
    notes = []
    if config.get("split_special_tokens"):
        notes.append(
            "tokenizer_config.json: 'split_special_tokens' is not used: special tokens of conversations are "
            "tokens, while transformers spells them"
        )
    name = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    if model_type in _USED_FOR.get(name, ()):
        content = json.loads(tokenizer_json)
        parts = [part for part in ("normalizer", "pre_tokenizer") if _differs(name, part, content, config)]
        if parts:
            notes.append(
                f"tokenizer_config.json: for tokenizer_class '{name}' transformers 5 has its own "
                f"{' and '.join(parts)}, other than those of tokenizer.json, which coterie uses, so some ids "
                "may differ; tokenizer_class 'PreTrainedTokenizerFast' makes them the same"
            )
    return notes


def _differs(name: str, part: str, content: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    found = content.get(part)
    if name == "LlamaTokenizer":
        if '"ByteLevel"' in json.dumps(content.get("pre_tokenizer")):
            return False  # transformers then reads the whole file
        if part == "normalizer":
            return found is not None
        scheme = "always" if config.get("legacy") else "first"
        if config.get("add_prefix_space") is False:
            scheme = "never"
        named = found if isinstance(found, Mapping) else {}
        return (named.get("type"), named.get("prepend_scheme")) != ("Metaspace", scheme) or named.get(
            "split"
        ) is not False
    if part == "normalizer":
        return found != {"type": "NFC"}
    return json.dumps(QWEN2_SPLIT, ensure_ascii=False) not in json.dumps(found, ensure_ascii=False)
