"""A bound on reasoning: once it is used up, the model must end its reasoning and write the answer.

V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coterie.config import ConfigError, suggest
from coterie.infer.request import TokenFilter
from coterie.reasoning.effort import BUDGET, EFFORTS, budget_of, can_reason, plan_effort
from coterie.text.reply_formats import ReplyFormat, format_of
from coterie.text.template_facts import facts_of
from coterie.text.tokenizer import StreamDecoder, Tokenizer


@dataclass(frozen=True)
class ThinkingWish:
    """How much a reply may reason: an effort (`reasoning.effort`), or a number of tokens; None: as it likes.

    Errors: `ConfigError` for an unknown effort, a negative number, and both at once.
    """

    effort: str | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.effort is not None and self.effort not in EFFORTS:
            hint = suggest(self.effort, EFFORTS) or f"; choose one of {', '.join(EFFORTS)}"
            raise ConfigError(f"effort: unknown value '{self.effort}'{hint}")
        if self.budget is not None and self.budget < 0:
            raise ConfigError(f"think_budget: give a number of tokens, 0 or more, not {self.budget}")
        if self.effort is not None and self.budget is not None:
            raise ConfigError("effort: cannot go with think_budget; give one of them")

    @classmethod
    def taken_from(cls, settings: dict[str, Any]) -> ThinkingWish:
        """What keyword settings of a call say (`effort`, `think_budget`), which are taken out of them."""
        return cls(settings.pop("effort", None), settings.pop("think_budget", None))

    def __bool__(self) -> bool:
        return self.effort is not None or self.budget is not None

    def variables(self, tokenizer: Tokenizer, tools: bool = False) -> dict[str, Any]:
        """Those of the chat template. Errors: `ConfigError` where the template knows no reasoning."""
        if not self:
            return {}
        template, facts = tokenizer.template_for(tools), facts_of(tokenizer, tools)
        form = format_of(template)
        if self.effort != "none" and not can_reason(template, facts, form):
            named = "effort" if self.effort is not None else "think_budget"
            raise ConfigError(f"{named}: the model's chat template knows no reasoning; leave it out")
        if self.effort is not None:
            return dict(plan_effort(self.effort, template, facts, form).variables)
        return {BUDGET: self.budget} if BUDGET in facts.reads else {}

    def bound(
        self, tokenizer: Tokenizer, vocab_size: int, prompt: Sequence[int], longest: int, rendered: bool
    ) -> ThinkingBudget | None:
        """The filter of a reply of at most `longest` tokens; None without a bound.

        `rendered`: the prompt has the template's variables, which may say it all.
        """
        template = tokenizer.template_for(False)
        form, budget = format_of(template), self.budget
        if self.effort is not None:
            plan = plan_effort(self.effort, template, facts_of(tokenizer), form)
            budget = budget_of(self.effort, longest) if plan.bounded or not rendered else None
        if budget is None or not any(form.thinking):
            return None
        opened = opens_reasoning(tokenizer, form, prompt)
        return ThinkingBudget(budget, form, tokenizer, vocab_size, opened)


def opens_reasoning(tokenizer: Tokenizer, form: ReplyFormat, prompt: Sequence[int]) -> bool:
    """Whether a prompt ends inside reasoning, because its template opened a block for the reply."""
    return form.opened_by(tokenizer.decode(list(prompt[-16:])))


class ThinkingBudget:
    """Ends the reasoning of one reply after `budget` tokens (`infer.request.TokenFilter`).

    `opened`: the prompt ended inside reasoning. `inner`: a further filter, which sees every token. Only
    reasoning at the beginning is bounded, because no format allows it later. The tokens that close it are not
    counted. Reasoning that was ended so cannot be opened again.
    """

    def __init__(
        self,
        budget: int,
        form: ReplyFormat,
        tokenizer: Tokenizer,
        vocab_size: int,
        opened: bool,
        inner: TokenFilter | None = None,
    ) -> None:
        self._inner = inner
        opening, self._close = form.thinking
        self._opening = "" if opened else opening
        self._end = tokenizer.encode(self._close, allow_special=True)
        self._ended = False  # by this bound
        self._last = -1
        first = tokenizer.encode(opening, allow_special=True)[:2]
        named = bool(first) and first[0] in tokenizer.added_tokens.values()
        self._again = first if named else []  # what opens reasoning; spelt marks may be words of an answer
        self._left = budget
        self._known, self._vocab_size = tokenizer.vocab_size, vocab_size
        self._decoder, self._text = StreamDecoder(tokenizer), ""
        self._inside, self._over = opened, False
        self._forced = list(self._end) if opened and budget == 0 else []

    @property
    def failure(self) -> str | None:
        """The failure of the inner filter."""
        return None if self._inner is None else self._inner.failure

    def allowed(self) -> Tensor | None:
        """bool (V,): the next token of the closing mark after the budget, else what `inner` allows."""
        if self._forced:
            mask_V = torch.zeros(self._vocab_size, dtype=torch.bool)
            mask_V[self._forced[0]] = True
            return mask_V
        inner_V = None if self._inner is None else self._inner.allowed()
        begun = len(self._again) == 1 or (len(self._again) > 1 and self._last == self._again[0])
        if not (self._ended and begun):
            return inner_V
        mask_V = torch.ones(self._vocab_size, dtype=torch.bool) if inner_V is None else inner_V.clone()
        mask_V[self._again[-1]] = False
        return mask_V

    def accept(self, token: int) -> None:
        """Advance by the token that was drawn."""
        if self._inner is not None:
            self._inner.accept(token)
        self._last = token
        if self._over:
            return
        if self._forced:
            self._forced.pop(0)
            self._over = self._ended = not self._forced
            return
        if token < self._known:
            self._text += self._decoder.feed(token)
        if self._inside:
            self._left -= 1
        else:
            self._begin()
        if self._inside and self._close in self._text:
            self._over = True
        elif self._inside and self._left <= 0:
            self._forced = list(self._end)
        if self._inside:  # keep the end of the text: the closing mark may be incomplete
            self._text = self._text[-len(self._close) :]

    def _begin(self) -> None:
        """Decide whether the text so far opens reasoning, or no longer can."""
        text = self._text.lstrip()
        self._inside = text.startswith(self._opening)
        self._over = not self._inside and not self._opening.startswith(text)
