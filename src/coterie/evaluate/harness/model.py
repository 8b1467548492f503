"""A model of this project as lm-eval's `LM`: requests in text, answered by token ids.

Text becomes tokens by the rules of lm-eval's Hugging Face backend, so that each item has the same score as
there: special tokens in prompts count, a start token comes first where the tokenizer puts one and the text
has none, spaces between context and continuation belong to the continuation, and what is too long loses its
left end. Read against lm-eval 0.4.13.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from coterie.config import ConfigError
from coterie.evaluate.continuations import Continuations
from coterie.evaluate.local_subject import LocalSubject
from coterie.evidence.canonical import digest_of
from coterie.infer.sampling import SamplingParams
from coterie.text.tokenizer import Tokenizer

DEFAULT_REPLY = 256  # tokens of a reply where the task says nothing, as in lm-eval
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_NO_CHANGE: Mapping[str, Any] = {"num_beams": 1, "use_cache": True, "num_return_sequences": 1}


@dataclass(frozen=True)
class WrittenText:
    """What a model wrote for one request, up to the first stop string. `truncated`: it ended at its limit."""

    text: str
    tokens: int
    truncated: bool


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """Answers lm-eval's requests with a model of this process.

    Requests of one item that share their context are scored together; an exact subject gives each item the
    same bits whatever else is asked. `seed`: of sampled replies, with the item's number.
    """

    backend = "causal"

    def __init__(self, subject: LocalSubject, seed: int = 0) -> None:
        super().__init__()
        self.subject, self.model, self.seed = subject, subject.model, seed
        self.tokenizer: Tokenizer = subject.tokenizer
        self._items: list[tuple[Any, Any]] = []

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text where nothing else does: the start token, or else the end token."""
        start = self.tokenizer.token_id(self.tokenizer.named_tokens.get("bos_token", ""))
        return self.eot_token_id if start is None else start

    @property
    def max_length(self) -> int:
        return self.model.config.max_positions

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; the tokenizer's start tokens first unless the text begins with one, or they are off."""
        starts = add_special_tokens
        if starts is None:
            starts = not has_bos_prefix(string, self.tokenizer.decode([self.prefix_token_id]))
        ids = self.tokenizer.encode(string, allow_special=True)
        return [*self.tokenizer.start_ids, *ids] if starts else ids

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy decoding writes it) of each (context, continuation)."""
        self._items = [(request.task_name, request.doc_id) for request in requests]
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        asked: list[tuple[Any, list[int], list[list[int]]]] = []
        for item, (_, context, continuation) in zip(self._items, requests, strict=True):
            if asked and asked[-1][:2] == (item, context):
                asked[-1][2].append(continuation)
            else:
                asked.append((item, context, [continuation]))
        found = self.subject.score([Continuations(context, tuple(choices)) for _, context, choices in asked])
        return [(score.logprob, score.greedy) for scores in found for score in scores]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """The log-probability of each whole text, read in windows where it is longer than the model's."""
        return self.rolling([request.args[0] for request in requests])

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """The same for texts."""
        parts = [self._windows(self.tok_encode(text)) for text in texts]
        scores = iter(self.subject.score([window for each in parts for window in each]))
        return [sum(next(scores)[0].logprob for _ in each) for each in parts]

    def _windows(self, ids: list[int]) -> list[Continuations]:
        """lm-eval's windows of a text: each token is scored once, later ones behind as much as fits."""
        pairs = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
        disjoint = (make_disjoint_window(pair) for pair in pairs)
        return [Continuations(context, (continuation,)) for context, continuation in disjoint]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """The reply to each (context, settings), up to the first of its stop strings."""
        return [written.text for written in self.write(requests)]

    def write(self, requests: Sequence[Any]) -> list[WrittenText]:
        """The replies of `generate_until`, with their lengths."""
        asked = [self._request(request, repeat) for request, repeat in _repeats(requests)]
        replies = self.subject.write([ids for ids, _, _ in asked], [params for _, params, _ in asked])
        found = []
        for (_, _, until), reply in zip(asked, replies, strict=True):
            text = self.tokenizer.decode(reply.ids, skip_special=True)
            text = postprocess_generated_text(text, until, None)
            found.append(WrittenText(text, len(reply.ids), reply.finish_reason == "length"))
        return found

    def _request(self, request: Any, repeat: int) -> tuple[list[int], SamplingParams, list[str]]:
        """The prompt of one request, its sampling settings, and the texts that end its reply."""
        context, given = request.args
        where = f"lm-eval:{request.task_name}"
        settings = dict(normalize_gen_kwargs(given, DEFAULT_REPLY))
        until = handle_stop_sequences(settings.pop("until"), self.tokenizer.decode([self.eot_token_id]))
        longest = settings.pop("max_gen_toks")
        if longest >= self.max_length:
            raise ConfigError(
                f"{where}: asks for replies of {longest} tokens, and the model has {self.max_length} "
                "positions; lower max_gen_toks in its generation_kwargs"
            )
        changes = _sampling(where, settings)
        ids = self.tok_encode(context)[-(self.max_length - longest) :] or [self.prefix_token_id]
        stop = tuple(dict.fromkeys(text for text in until if text))
        seed = int(digest_of([self.seed, request.task_name, request.doc_id, repeat])[-12:], 16)
        params = replace(
            self.model.sampling, max_tokens=longest, stop=stop, stop_ids=self._stop_ids, seed=seed, **changes
        )
        return ids, params, until

    @property
    def _stop_ids(self) -> tuple[int, ...]:
        """What ends a reply in transformers: the tokens that generation_config.json names, and the end."""
        checkpoint = self.model.checkpoint
        named = checkpoint.generation_config.get("eos_token_id") if checkpoint is not None else None
        if named is None:
            named = self.model.stop_ids
        ids = [named] if isinstance(named, int) else list(named)
        return tuple(sorted({*ids, self.eot_token_id}))


def _sampling(where: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Our settings of a request's. Errors: `ConfigError` for one that cannot be used."""
    sampled = settings.pop("do_sample", False)
    changes = {key: settings.pop(key) for key in _SAMPLING if key in settings}
    left = sorted(key for key, value in settings.items() if _NO_CHANGE.get(key, ...) != value)
    if left:
        known = ", ".join(("do_sample", "until", "max_gen_toks", *_SAMPLING))
        raise ConfigError(f"{where}: generation_kwargs {', '.join(left)} cannot be used; known are {known}")
    return changes if sampled else changes | {"temperature": 0.0}


def _repeats(requests: Sequence[Any]) -> Iterator[tuple[Any, int]]:
    """Each request and how often it came before."""
    seen: dict[int, int] = {}
    for request in requests:
        yield request, seen.get(id(request), 0)
        seen[id(request)] = seen.get(id(request), 0) + 1
