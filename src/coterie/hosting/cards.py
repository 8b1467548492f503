"""What a server says of a model, known without its weights: names, context, abilities."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from coterie.config.feed_forward import MoEConfig
from coterie.config.model import ModelConfig
from coterie.reasoning.effort import can_reason
from coterie.text.reply_formats import format_of
from coterie.text.template_facts import facts_of
from coterie.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelCard:
    """A model's name and aliases, the tokens of prompt and reply together, and what it can do."""

    name: str
    aliases: tuple[str, ...]
    max_length: int
    chat: bool
    tools: bool
    reasoning: bool
    moe: bool
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def names(self) -> tuple[str, ...]:
        """Its own name and its aliases."""
        return (self.name, *self.aliases)

    def all_names(self, adapters: Sequence[str]) -> list[str]:
        """Every name that a request may use: its own, aliases, `ADAPTER` and `BASE:ADAPTER`."""
        return [*self.names, *adapters, *(f"{base}:{one}" for base in self.names for one in adapters)]

    def variant_of(self, name: str, adapters: Sequence[str]) -> str | None:
        """The variant that a name selects ("": the base); None for a name of another model.

        The name is only compared with the served names, as `ADAPTER` or `BASE:ADAPTER`; nothing is opened.
        """
        if name in self.names:
            return ""
        return next(
            (one for one in adapters if name == one or name in (f"{base}:{one}" for base in self.names)), None
        )


def card_of(
    name: str, aliases: tuple[str, ...], config: ModelConfig, tokenizer: Tokenizer | None
) -> ModelCard:
    """The card of a model with this config and tokenizer."""
    template = None if tokenizer is None else tokenizer.templates.for_calls
    facts = None if template is None or tokenizer is None else facts_of(tokenizer, tools=True)
    return ModelCard(
        name=name,
        aliases=aliases,
        max_length=config.max_positions,
        chat=template is not None,
        tools=facts is not None and facts.tools,
        reasoning=facts is not None
        and template is not None
        and can_reason(template, facts, format_of(template)),
        moe=any(isinstance(block.ffn, MoEConfig) for block in config.blocks),
    )
