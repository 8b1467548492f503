"""Log-probabilities of given tokens from an OpenAI-compatible server, by `/v1/completions` with `echo`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from coterie.proof.records import ProbeRecord
from coterie.remote.client import Endpoint, EndpointError
from coterie.text.tokenizer import Tokenizer

# Requests for likely tokens, best first: servers differ in how many they return and whether they name ids.
_FORMS: tuple[dict[str, Any], ...] = (
    {"logprobs": 20, "return_tokens_as_token_ids": True},
    {"logprobs": 20},
    {"logprobs": 5},
    {"logprobs": 1},
)
_TOKEN_ID = "token_id:"


class ScoredServer:
    """One model of a server that scores given tokens.

    `url`: with or without `/v1`, or an endpoint. `model`: its name there (None: the only one that
    `/v1/models` lists). `key`: sent as a bearer token. `timeout`: seconds without data before a request
    fails. Errors: `EndpointError`, one line, from every method.
    """

    def __init__(
        self, url: str | Endpoint, model: str | None = None, key: str | None = None, timeout: float = 300.0
    ) -> None:
        self._server = url if isinstance(url, Endpoint) else Endpoint(url, key, timeout)
        self._given = model
        self._forms = list(_FORMS)

    @property
    def root(self) -> str:
        """The server's address."""
        return self._server.root

    @cached_property
    def model(self) -> str:
        """The name to ask for."""
        if self._given is not None:
            return self._given
        names = self._server.models()
        if len(names) != 1:
            raise EndpointError(
                f"{self.root}: serves several models ({', '.join(names[:8])}); choose with --model-name"
            )
        return names[0]

    def tokenize(self, text: str) -> list[int] | None:
        """The server's token ids of a text, without added tokens; None when it has no `/tokenize`."""
        try:
            answer = self._call("/tokenize", {"prompt": text, "add_special_tokens": False})
        except EndpointError as error:
            if error.status is None:
                raise
            return None
        ids = answer.get("tokens")
        return (
            [int(token) for token in ids]
            if isinstance(ids, list) and all(type(t) is int for t in ids)
            else None
        )

    def score(self, sequence: Sequence[int]) -> tuple[list[float], list[bool | None]]:
        """For each token of a sequence but the first: its log-probability, and whether none is more likely.

        The second is None where the server does not report the likeliest tokens.
        """
        logprobs = self._echo(list(sequence), self._forms)
        values = self._following(logprobs, sequence, None, 0)
        best = [
            max(top.values()) if isinstance(top, Mapping) and top else None
            for top in _tops(logprobs, sequence)
        ]
        return values, [
            None if top is None else value >= top for value, top in zip(values, best, strict=True)
        ]

    def record(self, sequences: Sequence[Sequence[int]], tokenizer: Tokenizer | None) -> ProbeRecord:
        """Record the served model's answers to the sequences, given as token ids.

        Servers report likely tokens by name. `tokenizer` turns names into ids, where the server does not name
        them `token_id:N`.
        """
        names = _ids_by_bytes(tokenizer) if tokenizer is not None else {}
        following: list[float] = []
        likely: list[dict[int, float]] = []
        forms = list(_FORMS)
        for number, sequence in enumerate(sequences):
            logprobs = self._echo(list(sequence), forms)
            following += self._following(logprobs, sequence, tokenizer, number)
            likely += [_by_id(top, names) for top in _tops(logprobs, sequence)]
        ids_TK, top_TK = _lists(likely, forms[0]["logprobs"])
        return ProbeRecord(tuple(map(tuple, sequences)), torch.tensor(following), ids_TK, top_TK)

    def _echo(self, ids: list[int], forms: list[dict[str, Any]]) -> Mapping[str, Any]:
        """The `logprobs` object for one echoed prompt; refused forms of the request leave `forms`."""
        request = {"model": self.model, "prompt": ids, "max_tokens": 1, "echo": True, "temperature": 0}
        while True:
            try:
                answer = self._call("/v1/completions", request | forms[0])
                break
            except EndpointError as error:
                if error.status not in (400, 422) or len(forms) == 1:
                    raise
                del forms[0]
        choices = answer.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        logprobs = choice.get("logprobs") if isinstance(choice, Mapping) else None
        if not isinstance(logprobs, Mapping) or not isinstance(logprobs.get("token_logprobs"), list):
            raise EndpointError(
                f"{self.root}: returns no log-probabilities of the prompt (/v1/completions with echo and "
                "logprobs); serve the model with 'coterie serve' or vLLM to compare it"
            )
        usage = answer.get("usage")
        counted = usage.get("prompt_tokens", len(ids)) if isinstance(usage, Mapping) else len(ids)
        if counted != len(ids):
            raise EndpointError(
                f"{self.root}: made {counted} tokens of {len(ids)} given ids; it adds or splits tokens"
            )
        return logprobs

    def _following(
        self, logprobs: Mapping[str, Any], sequence: Sequence[int], tokenizer: Tokenizer | None, number: int
    ) -> list[float]:
        """Log-probabilities of all tokens of a sequence but the first."""
        values = logprobs["token_logprobs"]
        if not len(sequence) <= len(values) <= len(sequence) + 1:
            raise EndpointError(
                f"{self.root}: gave {len(values)} log-probabilities for probe {number} of {len(sequence)} "
                "tokens; it does not echo the prompt, or it adds or splits tokens"
            )
        used = values[1 : len(sequence)]
        if not all(isinstance(value, int | float) for value in used):
            raise EndpointError(
                f"{self.root}: left out log-probabilities of the prompt; it scores only its own tokens"
            )
        self._check_names(logprobs.get("tokens"), sequence, tokenizer, number)
        return [float(value) for value in used]

    def _check_names(
        self, tokens: Any, sequence: Sequence[int], tokenizer: Tokenizer | None, number: int
    ) -> None:
        """The tokens that the server names must be the ones that were sent."""
        if tokenizer is None or not isinstance(tokens, list) or len(tokens) < len(sequence):
            return
        special = tokenizer.special_ids
        for place, (name, token) in enumerate(zip(tokens, sequence, strict=False)):
            text = tokenizer.decode([token])
            if (
                token in special
                or not isinstance(name, str)
                or "\ufffd" in text + name
                or name.startswith("bytes:")
            ):
                continue
            expected = f"{_TOKEN_ID}{token}" if name.startswith(_TOKEN_ID) else text
            if name.strip() != expected.strip():
                raise EndpointError(
                    f"{self.root}: its token {place} of probe {number} is {name[:40]!r}, here it is "
                    f"{expected[:40]!r}; it uses another tokenizer"
                )

    def _call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._server.post(path, body)
        if not isinstance(answer, dict):
            raise EndpointError(
                f"{self.root}{path}: answered with a {type(answer).__name__}, not with an object"
            )
        return answer


def _tops(logprobs: Mapping[str, Any], sequence: Sequence[int]) -> list[Any]:
    """The likely tokens at each place of a sequence but the first; None where the server reports none."""
    tops = logprobs.get("top_logprobs")
    if not isinstance(tops, list) or len(tops) < len(sequence):
        return [None] * (len(sequence) - 1)
    return tops[1 : len(sequence)]


def _by_id(top: Any, names: Mapping[bytes, int]) -> dict[int, float]:
    """token id -> log-probability of one position's likely tokens; ambiguous names get ids below 0."""
    result: dict[int, float] = {}
    for number, (name, value) in enumerate(top.items() if isinstance(top, Mapping) else ()):
        if not isinstance(value, int | float):
            continue
        rest = name.removeprefix(_TOKEN_ID)
        token = int(rest) if rest != name and rest.isdigit() else names.get(_spelt(name), -1 - number)
        result[token] = float(value)
    return result


def _lists(likely: list[dict[int, float]], asked: int) -> tuple[Tensor, Tensor]:
    """(T, K) ids and log-probabilities, best first.

    A list that is short or has an unclear name is left out: -1 and -inf.
    """
    kept = min(asked, max((len(top) for top in likely), default=0))
    ids_TK = torch.full((len(likely), kept), -1, dtype=torch.int32)
    top_TK = torch.full((len(likely), kept), float("-inf"))
    for row, top in enumerate(likely):
        best = sorted(top.items(), key=lambda pair: -pair[1])[:kept]
        if len(best) == kept and all(token >= 0 for token, _ in best):
            ids_TK[row] = torch.tensor([token for token, _ in best], dtype=torch.int32)
            top_TK[row] = torch.tensor([value for _, value in best])
    return ids_TK, top_TK


def _spelt(name: str) -> bytes:
    """The bytes of a token's name: its text, or `bytes:\\xe5\\xad` for a part of a character."""
    parts = re.fullmatch(r"bytes:((?:\\x[0-9a-fA-F]{2})+)", name)
    return name.encode() if parts is None else bytes.fromhex(parts[1].replace("\\x", ""))


def _ids_by_bytes(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Bytes -> id, for bytes that exactly one token stands for."""
    spellings = tokenizer.token_bytes(range(tokenizer.vocab_size))
    seen = Counter(spellings)
    return {spelt: token for token, spelt in enumerate(spellings) if seen[spelt] == 1}
