"""Prompts for text between a beginning and an end, in the form that the tokenizer's own tokens say.

Sources: the model cards of Qwen2.5-Coder, StarCoder, SantaCoder, DeepSeek-Coder, CodeGemma and Codestral, and
Code Llama (https://arxiv.org/abs/2308.12950, section 2.3).
"""

from __future__ import annotations

from dataclasses import dataclass

from coterie.text.tokenizer import Tokenizer

PREFIX, SUFFIX = "prefix", "suffix"


@dataclass(frozen=True)
class InfillForm:
    """How one family writes such a prompt. `parts`: names of tokens, `PREFIX` and `SUFFIX`, in their order.

    `ends`: further tokens with which models of the family end what they fill in.
    """

    parts: tuple[str, ...]
    ends: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """The names of tokens among the parts."""
        return tuple(part for part in self.parts if part not in (PREFIX, SUFFIX))

    def prompt(self, tokenizer: Tokenizer, before: str, after: str) -> list[int]:
        """Token ids of the prompt, without what the tokenizer puts before a text."""
        texts = {PREFIX: tokenizer.encode(before), SUFFIX: _inside(tokenizer, after)}
        ids: list[int] = []
        for part in self.parts:
            ids += texts[part] if part in texts else [tokenizer.added_tokens[part]]
        return ids

    def stops(self, tokenizer: Tokenizer) -> list[int]:
        """Tokens that end the reply besides the tokenizer's own: no text contains a mark."""
        added = tokenizer.added_tokens
        return [added[name] for name in (*self.marks, *self.ends) if name in added]


FORMS = (
    InfillForm(
        ("<|fim_prefix|>", PREFIX, "<|fim_suffix|>", SUFFIX, "<|fim_middle|>"),
        ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>"),
    ),
    InfillForm(
        ("<fim_prefix>", PREFIX, "<fim_suffix>", SUFFIX, "<fim_middle>"),
        ("<fim_pad>", "<file_sep>", "<repo_name>"),
    ),
    InfillForm(("<fim-prefix>", PREFIX, "<fim-suffix>", SUFFIX, "<fim-middle>"), ("<fim-pad>",)),
    InfillForm(("<｜fim▁begin｜>", PREFIX, "<｜fim▁hole｜>", SUFFIX, "<｜fim▁end｜>")),
    InfillForm(("▁<PRE>", PREFIX, "▁<SUF>", SUFFIX, "▁<MID>"), ("▁<EOT>",)),
    InfillForm(("[SUFFIX]", SUFFIX, "[PREFIX]", PREFIX)),
)


def infill_form(tokenizer: Tokenizer) -> InfillForm | None:
    """The form whose tokens the tokenizer has all of, or None."""
    added = tokenizer.added_tokens
    return next((form for form in FORMS if all(mark in added for mark in form.marks)), None)


def _inside(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of text that stands after other text: without the space that some tokenizers put first."""
    start = tokenizer.encode("☺")
    if not tokenizer.token_bytes(start[:1])[0].startswith(b" "):
        return tokenizer.encode(text)
    ids = tokenizer.encode("☺" + text)
    return ids[len(start) :] if ids[: len(start)] == start else tokenizer.encode(text)
