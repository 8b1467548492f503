"""Constrained replies: JSON schemas and tool calls, through llguidance.

A tool is a mapping: `name`; `parameters`, a schema (none: any arguments); `strict`, whether a schema that
cannot be enforced is refused; `pointer`, its place in the request.

V vocabulary.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.hosting.constraints.schemas import bad, fit
from coterie.hosting.errors import invalid
from coterie.text.reply_formats import ReplyFormat
from coterie.text.tokenizer import StreamDecoder, Tokenizer

_CACHED = 64
_PLACE = re.compile(r"^at \d+\(\d+\): ")
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class GrammarFilter:
    """Restricts one reply to a grammar (`infer.request.TokenFilter`).

    `trigger`: the grammar starts after this text; None: at once. `repeat`: once the grammar is satisfied, the
    reply is free until the next trigger; without `repeat` it must end. `think`: the token that opens and the
    text that closes a reasoning block, which may come first. Without `repeat` a reply cannot stop before the
    grammar has started: reasoning continues until it is closed. When no token can satisfy the grammar,
    `failure` is set and the reply ends. `unenforced`: pointers to the keywords of schemas that the grammar
    does not enforce.
    """

    def __init__(
        self,
        prototype: Any,
        tokenizer: Tokenizer,
        vocab_size: int,
        stop_ids: Sequence[int],
        trigger: str | None = None,
        repeat: bool = False,
        think: tuple[int, str] | None = None,
        unenforced: Sequence[str] = (),
    ) -> None:
        self.failure: str | None = None
        self.unenforced = tuple(unenforced)
        self._made_from = (prototype, tokenizer, vocab_size, stop_ids, trigger, repeat, think, unenforced)
        self._prototype, self._matcher = prototype, prototype.deep_copy()
        self._decoder = StreamDecoder(tokenizer)
        self._known, self._vocab_size = tokenizer.vocab_size, vocab_size
        # A directory may name stop ids beyond the vocabulary, which no reply can contain.
        self._stops = torch.tensor([i for i in stop_ids if 0 <= i < vocab_size], dtype=torch.int64)
        self._trigger, self._repeat, self._think = trigger, repeat, think
        self._active = trigger is None
        self._tail = ""
        self._fresh = True

    @property
    def ends(self) -> bool:
        """Whether the reply ends when the grammar is satisfied."""
        return not self._repeat

    def fresh(self) -> GrammarFilter:
        """The same filter for another reply."""
        return GrammarFilter(*self._made_from)

    def allowed(self) -> Tensor | None:
        """bool (V,): the tokens the grammar allows, or all but stops before it starts; None: all tokens."""
        if not self._active:
            return None if self._repeat else self._waiting()
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        mask_V = torch.zeros(self._vocab_size, dtype=torch.bool)
        known = torch.from_numpy(np.unpackbits(bits, bitorder="little")).bool()[: self._vocab_size]
        mask_V[: known.shape[0]] = known
        mask_V[self._stops] = bool(self._matcher.is_accepting()) and not self._repeat
        if self._fresh and self._think is not None:
            mask_V[self._think[0]] = True
        if self._matcher.is_error() or not bool(mask_V.any()):
            self.failure = (
                self._matcher.get_error().splitlines()[0][:200] if self._matcher.is_error() else "stuck"
            )
            mask_V[self._stops] = True
        return mask_V

    def _waiting(self) -> Tensor:
        """All tokens but the stop tokens: the reply must not end before the grammar is satisfied."""
        mask_V = torch.ones(self._vocab_size, dtype=torch.bool)
        mask_V[self._stops] = False
        return mask_V

    def accept(self, token: int) -> None:
        """Advance by the token that was drawn."""
        first, self._fresh = self._fresh, False
        if not self._active:
            self._watch(token)
            return
        if first and self._think is not None and token == self._think[0]:
            self._active, self._trigger = False, self._think[1]
            return
        if token in self._stops or self.failure is not None:
            return
        if not self._matcher.consume_token(token):
            # Following a token may cost more than the limits allow, even where its mask did not.
            self.failure = self._matcher.get_error().partition("\n")[0][:200] or "a token did not fit"
        elif self._repeat and self._matcher.is_stopped():
            self._active, self._matcher = False, self._prototype.deep_copy()

    def _watch(self, token: int) -> None:
        """Look for the trigger at the end of the text."""
        assert self._trigger is not None
        if token < self._known:
            self._tail = (self._tail + self._decoder.feed(token))[-len(self._trigger) - 32 :]
        if self._trigger in self._tail:
            self._active, self._tail = True, ""


class Grammars:
    """Makes filters for one tokenizer and its model's reply format; compiled grammars are cached."""

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, stop_ids: Sequence[int], form: ReplyFormat
    ) -> None:
        self._tokenizer, self._vocab_size, self._stop_ids = tokenizer, vocab_size, tuple(stop_ids)
        self._cache: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._ll: Any = None
        self._writing, self._thinks = form.writing, form.reasoning
        bare = [
            mark[0]
            for region in form.regions
            if region.kind == "calls" and region.at_start
            for mark in region.open
        ]
        self._begins = "".join(map(re.escape, bare))  # free text must not begin like a call
        self._marks = sorted(tokenizer.added_tokens, key=len, reverse=True)

    def of_schema(
        self,
        schema: Mapping[str, Any],
        pointer: str,
        opened: bool | None,
        tools: Sequence[Mapping[str, Any]] = (),
        strict: bool = True,
    ) -> GrammarFilter:
        """For a reply that must be JSON of this schema, or a call of one of `tools`; `opened` as `of_rules`.

        Errors: `ApiError` 400 `invalid_schema`.
        """
        fitted = fit(schema, pointer, strict=strict)
        rules = f"value: %json {_json(fitted.schema, False)}"
        return self.of_rules(rules, pointer, opened, tools, fitted.left)

    def of_rules(
        self,
        rules: str,
        pointer: str,
        opened: bool | None,
        tools: Sequence[Mapping[str, Any]] = (),
        unenforced: Sequence[str] = (),
    ) -> GrammarFilter:
        """For a reply that must be the `value` of these Lark rules, or a call of one of `tools`.

        `opened` None: for plain text, in which neither reasoning nor the marks of an answer come first.
        `unenforced`: pointers to what the rules do not enforce. Errors: `ApiError` 400 `invalid_schema`.
        """
        left = list(unenforced)
        if opened is None:
            prototype = self._compiled(f"start: value\n{rules}", pointer)
            return GrammarFilter(
                prototype, self._tokenizer, self._vocab_size, self._stop_ids, unenforced=left
            )
        rules = f"answer: {self._literal(self._writing.answer)} value\n{rules}"
        if tools:
            rules = f"{rules}\n{self._calls(tools, False, left)}"
        return self._filter("answer | calls" if tools else "answer", rules, pointer, opened, left)

    def of_calls(self, tools: Sequence[Mapping[str, Any]], several: bool, opened: bool) -> GrammarFilter:
        """For a reply that must be one call (or `several`) of these tools. Errors: `ApiError` 400."""
        left: list[str] = []
        return self._filter("calls", self._calls(tools, several, left), "/tools", opened, left)

    def of_strict_calls(self, tools: Sequence[Mapping[str, Any]], opened: bool) -> GrammarFilter:
        """For a free reply whose calls, if it makes any, must be of these tools and their schemas.

        Errors: `ApiError` 400.
        """
        writing, left = self._writing, list[str]()
        if not writing.trigger:
            first = f"[^\\s{self._begins}]" if self._begins else ""
            free = f"free: {self._literal(writing.answer)} TEXT\nTEXT: /{first}(.|\\n)*/"
            rules = f"{self._calls(tools, True, left)}\n{free}"
            return self._filter("calls | free", rules, "/tools", opened, left, writing.preamble)
        _, inside, rest = writing.call.partition(writing.trigger)
        if inside:
            grammar = f"start: tool\n{self._tools(tools, rest, left)}"
        else:
            opening = writing.open.partition(writing.trigger)[2]
            grammar = self._calls(tools, True, left, opening).replace("calls:", "start:", 1)
        prototype = self._compiled(grammar, "/tools")
        return GrammarFilter(
            prototype,
            self._tokenizer,
            self._vocab_size,
            self._stop_ids,
            writing.trigger,
            True,
            unenforced=left,
        )

    def _literal(self, text: str) -> str:
        """A text as a grammar literal; an added token is written by its id."""
        pattern = "|".join(map(re.escape, self._marks)) or r"\b\B"
        parts = re.split(f"({pattern})", text)
        added = self._tokenizer.added_tokens
        return " ".join(f"<[{added[part]}]>" if part in added else _quoted(part) for part in parts if part)

    def _calls(
        self, tools: Sequence[Mapping[str, Any]], several: bool, left: list[str], opening: str | None = None
    ) -> str:
        """Rules for `calls`; `opening` replaces the text with which the family opens calls.

        Pointers to what the rules do not enforce are appended to `left`.
        """
        writing = self._writing
        more = f"({self._literal(writing.between)} tool)*" if several and writing.between else ""
        begin = self._literal(writing.open if opening is None else opening)
        end = self._literal(writing.close)
        return f"calls: {begin} tool {more} {end}\n{self._tools(tools, writing.call, left)}"

    def _tools(self, tools: Sequence[Mapping[str, Any]], pattern: str, left: list[str]) -> str:
        """Rules for `tool`: a call of any of the tools, written in the form `pattern`."""
        lines = ["tool: " + " | ".join(f"tool_{index}" for index in range(len(tools)))]
        for index, tool in enumerate(tools):
            whole = "{object}" in pattern
            schema = _call_schema(tool, index, self._writing.arguments if whole else None, left)
            known = {
                "{object}": f"json_{index}",
                "{arguments}": f"json_{index}",
                "{name}": self._literal(tool["name"]),
            }
            parts = re.split(r"(\{object\}|\{arguments\}|\{name\})", pattern)
            written = " ".join(known.get(part) or self._literal(part) for part in parts if part)
            lines += [f"tool_{index}: {written}", f"json_{index}: %json {_json(schema, True)}"]
        return "\n".join(lines)

    def _filter(
        self,
        start: str,
        rules: str,
        pointer: str,
        opened: bool,
        left: Sequence[str],
        also: tuple[str, str] | None = None,
    ) -> GrammarFilter:
        """A filter that allows reasoning first: as separate messages, or between marks that are tokens.

        `also`: the marks of a further kind of message that may come first.
        """
        messages = [marks for marks in (self._writing.thought, also) if marks is not None]
        if messages:
            each = " | ".join(
                f"{self._literal(before)} SAID {self._literal(after)}" for before, after in messages
            )
            start = f"message* ({start})"
            rules = f"{rules}\nmessage: {each}\nSAID: /(.|\\n)+/"
        prototype = self._compiled(f"start: {start}\n{rules}", pointer)
        trigger, think = None, None
        if self._thinks is not None:
            token, close = self._tokenizer.added_tokens.get(self._thinks.open[0]), self._thinks.close[0]
            trigger = close if opened else None
            think = None if opened or token is None else (token, close)
        return GrammarFilter(
            prototype, self._tokenizer, self._vocab_size, self._stop_ids, trigger, False, think, left
        )

    def _compiled(self, grammar: str, pointer: str) -> Any:
        from llguidance import LLMatcher, LLParserLimits

        with self._lock:
            if grammar in self._cache:
                self._cache.move_to_end(grammar)
                return self._cache[grammar]
            limits = LLParserLimits(
                initial_lexer_fuel=1_000_000, max_lexer_states=50_000, max_grammar_size=100_000
            )
            wrapped = LLMatcher.grammar_from_lark(grammar)
            wrong, notes = LLMatcher.validate_grammar_with_warnings(wrapped, self._tokens(), limits=limits)
            if wrong or notes:
                # The lines after the first show our own grammar, which would not help the client.
                first_lines = (note.strip().partition("\n")[0] for note in notes)
                reason = "; ".join(_PLACE.sub("", line) for line in first_lines)[:300]
                raise bad(pointer, f"cannot be enforced ({reason})")
            matcher = LLMatcher(self._tokens(), wrapped, log_level=0, limits=limits)
            first = matcher.deep_copy()  # a grammar may compile and then be too costly, or allow nothing
            if not any(first.compute_bitmask()) or first.is_error():
                why = first.get_error().partition("\n")[0][:200] if first.is_error() else "it allows nothing"
                raise bad(pointer, f"cannot be enforced ({why})")
            self._cache[grammar] = matcher
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
            return matcher

    def _tokens(self) -> Any:
        if self._ll is None:
            from llguidance import LLTokenizer, TokenizerWrapper

            self._ll = LLTokenizer(TokenizerWrapper(_Vocabulary(self._tokenizer)), n_vocab=None)
        return self._ll


class _Vocabulary:
    """A tokenizer in the form that llguidance needs."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = None
        self.tokens = tokenizer.token_bytes(range(tokenizer.vocab_size))
        self.special_token_ids = sorted(set(tokenizer.added_tokens.values()))

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError("text was expected")
        return self._tokenizer.encode(text)


def _json(schema: Mapping[str, Any], spaced: bool) -> str:
    """A schema for llguidance, without optional white space, on which a model may spend a whole reply."""
    options: dict[str, Any] = {**_COMPACT, "coerce_one_of": True}  # `fit` has named or refused those
    if not spaced:
        options |= {"item_separator": ",", "key_separator": ":"}
    return json.dumps({**schema, "x-guidance": options})


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _call_schema(tool: Mapping[str, Any], index: int, key: str | None, left: list[str]) -> dict[str, Any]:
    """The schema of a call's arguments; with a `key`, of the object of the name and, under `key`, these."""
    parameters = tool.get("parameters") or {"type": "object"}
    pointer = tool.get("pointer", f"/tools/{index}/function/parameters")
    if parameters.get("type", "object") != "object":
        raise invalid(f"{pointer}/type: parameters must be an object", pointer, "invalid_schema")
    fitted = fit(parameters, pointer, f"/properties/{key}" if key else "", bool(tool.get("strict")))
    left += fitted.left
    arguments = {"type": "object", **fitted.schema}
    if key is None:
        return arguments
    return {
        "type": "object",
        "properties": {"name": {"const": tool["name"]}, key: arguments},
        "required": ["name", key],
        "additionalProperties": False,
    }
