"""A bound on reasoning: once it is used up, the model must end its reasoning and write the answer.

V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.infer.request import TokenFilter
from coterie.text.reply_formats import ReplyFormat
from coterie.text.tokenizer import StreamDecoder, Tokenizer


class ThinkingBudget:
    """Ends the reasoning of one reply after `budget` tokens (`infer.request.TokenFilter`).

    `opened`: the prompt ended inside reasoning. `inner`: a further filter, which sees every token. Only
    reasoning at the beginning is bounded, because no format allows it later. The tokens that close it are not
    counted.
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
        if not self._forced:
            return None if self._inner is None else self._inner.allowed()
        mask_V = torch.zeros(self._vocab_size, dtype=torch.bool)
        mask_V[self._forced[0]] = True
        return mask_V

    def accept(self, token: int) -> None:
        """Advance by the token that was drawn."""
        if self._inner is not None:
            self._inner.accept(token)
        if self._over:
            return
        if self._forced:
            self._forced.pop(0)
            self._over = not self._forced
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
