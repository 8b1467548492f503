"""The text of one reply as its tokens arrive: whole characters only, and no part of a stop string."""

from __future__ import annotations

from coterie.infer.sampling import SamplingParams
from coterie.text.stop_strings import StopStrings
from coterie.text.tokenizer import StreamDecoder, Tokenizer


class ReplyText:
    """Token ids in, certain text out; always empty without a tokenizer."""

    def __init__(self, tokenizer: Tokenizer | None, params: SamplingParams) -> None:
        self._decoder = StreamDecoder(tokenizer) if tokenizer is not None else None
        # A model may have more rows than the tokenizer has tokens; such a row has no text.
        self._num_known = tokenizer.vocab_size if tokenizer is not None else 0
        self._stops = StopStrings(params.stop, params.include_stop)
        self._hidden = params.hidden_ids
        self._too_early = params.min_tokens  # tokens in which a stop string does not count
        self._stopped = False

    def push(self, token: int) -> tuple[str, bool]:
        """(text that became certain, whether a stop string was completed)."""
        self._stops.armed = self._too_early <= 0
        self._too_early -= 1
        if self._decoder is None or token >= self._num_known or token in self._hidden:
            return "", False
        text, self._stopped = self._stops.push(self._decoder.feed(token))
        return text, self._stopped

    def finish(self) -> str:
        """The rest at the end of the reply (U+FFFD for half a character); empty after a stop string."""
        if self._decoder is None or self._stopped:
            return ""
        text, stopped = self._stops.push(self._decoder.finish())
        return text if stopped else text + self._stops.finish()
