"""The answers in a user's examples, weighed by a model behind a server that gives log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from coterie.agents.speaker import wire_messages
from coterie.config.errors import CoterieError, DataError
from coterie.data.formats import ChatExample, Example, PairExample
from coterie.data.tokenised import TokenSequence
from coterie.evaluate.remote_subject import RemoteSubject
from coterie.remote.client import EndpointError


class ServedAnswers:
    """One model of a server, asked for the log-probabilities of given answers.

    `blind`: why it cannot be asked, in one line; empty where it can. Tokens are those of the server's
    `/tokenize`, which renders conversations by the model's chat template.
    """

    def __init__(self, subject: RemoteSubject, longest: int) -> None:
        self._subject = subject
        self._longest = longest
        self.blind = ""
        try:
            ids, _ = subject.ids({"prompt": "a b c"})
            subject.scored.score(ids)
        except EndpointError as error:
            self.blind = str(error)

    def read(self, example: Example) -> TokenSequence | str:
        """The tokens of an example with those of its answers marked, or why it cannot be read."""
        try:
            if isinstance(example, ChatExample):
                ids, learnt, most = self._chat(example)
            elif isinstance(example, PairExample):
                ids, learnt, most = self._pair(example)
            else:
                return f"{example.origin}: has not one answer"
        except CoterieError as error:
            return f"{example.origin}: {error}"
        longest = min(self._longest, self._longest if most is None else most - 1)
        if len(ids) > longest:
            return f"{example.origin}: takes {len(ids)} tokens and the longest here is {longest}"
        found = TokenSequence(tuple(ids), tuple(learnt))
        return found if found.num_learnt else f"{example.origin}: has no token of an answer"

    def nats(self, sequence: TokenSequence) -> float:
        """Minus the log-probability of its marked tokens. Errors: `EndpointError`, one line."""
        values, _ = self._subject.scored.score(sequence.ids)
        return -sum(value for value, learnt in zip(values, sequence.learnt[1:], strict=True) if learnt)

    def _pair(self, example: PairExample) -> tuple[list[int], list[bool], int | None]:
        before, _ = self._subject.ids({"prompt": example.prompt, "add_special_tokens": True})
        whole, most = self._subject.ids(
            {"prompt": example.prompt + example.completion, "add_special_tokens": True}
        )
        kept = _alike(before, whole)
        return whole, [place >= kept for place in range(len(whole))], most

    def _chat(self, example: ChatExample) -> tuple[list[int], list[bool], int | None]:
        """Errors: `DataError` for a template that shows a reply otherwise once the conversation goes on."""
        if example.variables:
            raise DataError("has names for the chat template, which a server does not take")
        whole, most = self._shown(example, len(example.messages), False)
        learnt = [False] * len(whole)
        for place, message in enumerate(example.messages):
            marked = message.role == "assistant" if example.learn is None else example.learn[place]
            if not marked:
                continue
            before, _ = self._shown(example, place, True)
            after, _ = self._shown(example, place + 1, False)
            if whole[: len(before)] != before or whole[: len(after)] != after:
                raise DataError(f"the server's chat template shows reply {place + 1} unlike its prompt")
            end = len(after)
            while end > len(before) and not self._text(after[end - 1]).strip():
                end -= 1  # a line break after the end of a turn is the template's
            learnt[len(before) : end] = [True] * (end - len(before))
        return whole, learnt, most

    def _shown(self, example: ChatExample, messages: int, prompt: bool) -> tuple[list[int], int | None]:
        body: dict[str, Any] = {
            "messages": wire_messages(example.messages[:messages]),
            "add_generation_prompt": prompt,
        }
        if example.tools:
            body["tools"] = list(example.tools)
        return self._subject.ids(body)

    def _text(self, token: int) -> str:
        found = self._subject.endpoint.post(
            "/detokenize", {"model": self._subject.speaker.model, "tokens": [token]}
        )
        text = found.get("prompt") if isinstance(found, dict) else None
        return text if isinstance(text, str) else "?"


def _alike(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin alike."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
