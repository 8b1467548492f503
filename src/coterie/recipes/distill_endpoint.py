"""A teacher behind a server, which returns the likeliest tokens at each place of a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coterie.config.distill import DistillConfig
from coterie.config.errors import ConfigError, DataError
from coterie.data.rows import Row
from coterie.data.teacher_targets import LEAST_LOG, OWN, Answers, TargetHeader
from coterie.remote.client import Endpoint, EndpointError, read_key
from coterie.text.tokenizer import Tokenizer

REQUEST_TOKENS = 4096
_UNABLE = (
    "returns no log-probabilities of prompts (prompt_logprobs, as vLLM and coterie serve do), which a "
    "teacher needs; serve it with one of them, or give the weights"
)


@dataclass(frozen=True)
class EndpointTeacher:
    """A model of an OpenAI-compatible server. `identity`: its name and address; the weights are not seen."""

    endpoint: Endpoint
    served: str
    tokenizer: Tokenizer
    path: Path
    max_positions: int
    model: None = None

    @staticmethod
    def connect(config: DistillConfig, tokenizer: Tokenizer, path: Path) -> EndpointTeacher:
        """The server's model `teacher_model`, or its only one.

        `tokenizer`: the student's, of directory `path`. Errors: `EndpointError` without a server;
        `ConfigError` for a model that it lacks, and for what the likeliest tokens alone cannot give.
        """
        if config.mode != "offline" or config.targets.kind != "topk":
            raise ConfigError(
                f"teacher {config.teacher}: a server returns the likeliest tokens alone; use mode=offline "
                "and targets.kind=topk"
            )
        if config.temperature != 1:
            raise ConfigError(
                f"temperature {config.temperature:g}: what a server returns is at temperature 1; use that"
            )
        endpoint = Endpoint(config.teacher, read_key(None))
        names = endpoint.models()
        if config.teacher_model is None and len(names) > 1:
            raise ConfigError(
                f"teacher_model: {config.teacher} serves {', '.join(names[:5])}; name one of them"
            )
        served = config.teacher_model or names[0]
        if served not in names:
            raise ConfigError(f"teacher_model {served}: {config.teacher} serves {', '.join(names[:5])}")
        listed = endpoint.get("/v1/models")["data"]
        longest = next((one.get("max_model_len") for one in listed if one.get("id") == served), None)
        return EndpointTeacher(endpoint, served, tokenizer, path, int(longest or 2**31) - 2)

    @property
    def name(self) -> str:
        """The model and its server."""
        return f"{self.served} at {self.endpoint.root}"

    @property
    def identity(self) -> str:
        """What a cache names this teacher by."""
        return self.name

    def ask(self, header: TargetHeader, rows: Sequence[tuple[int, Row]]) -> Iterator[Answers]:
        """The answers to each row, of one request for each few thousand tokens.

        Errors: `EndpointError`, `DataError` for a server that cannot give them or whose tokens are others.
        """
        size = max(1, REQUEST_TOKENS // header.row_length)
        for at in range(0, len(rows), size):
            some = [row for _, row in rows[at : at + size]]
            prompts = [prompt for row in some for prompt in _prompts(row)]
            found = iter(self._scored(prompts, header.width))
            for row in some:
                parts = [_kept(next(found), prompt, header.width, self.name) for prompt in _prompts(row)]
                yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _scored(self, prompts: Sequence[list[int]], most: int) -> list[list[Any]]:
        """For each prompt, the entry of each token in vLLM's form."""
        body = {
            "model": self.served,
            "prompt": prompts,
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": most,
        }
        try:
            answer = self.endpoint.post("/v1/completions", body)
        except EndpointError as error:
            raise EndpointError(f"teacher {self.name}: {error}; it {_UNABLE}", error.status) from None
        choices = answer.get("choices") if isinstance(answer, Mapping) else None
        if not isinstance(choices, list) or len(choices) != len(prompts):
            raise DataError(f"teacher {self.name}: answered {len(prompts)} prompts with other choices")
        entries = [one.get("prompt_logprobs") for one in sorted(choices, key=lambda one: one.get("index", 0))]
        if any(not isinstance(one, list) for one in entries):
            raise DataError(f"teacher {self.name}: {_UNABLE}")
        for prompt, found in zip(prompts, entries, strict=True):
            if len(found) != len(prompt):
                raise DataError(
                    f"teacher {self.name}: scored {len(found)} tokens of a prompt of {len(prompt)}: it adds "
                    "or drops tokens, so it has another tokenizer than the student"
                )
            self._check_tokens(prompt[1:], found[1:])
        return entries

    def _check_tokens(self, prompt: Sequence[int], found: Sequence[Any]) -> None:
        """Refuse a server that speaks of other tokens than the student's tokenizer, by ids and text."""
        for token, entry in zip(prompt, found, strict=True):
            own = entry.get(str(token)) if isinstance(entry, Mapping) else None
            if own is None:
                raise DataError(
                    f"teacher {self.name}: gives no log-probability of token {token}, which it was given"
                )
            text, ours = (
                own.get("decoded_token"),
                self.tokenizer.token_bytes([token])[0].decode("utf-8", "replace"),
            )
            # Half a character decodes to marks that servers write differently.
            if text and "\ufffd" not in text + ours and text.strip() != ours.strip():
                raise DataError(
                    f"teacher {self.name}: token {token} is {text!r} there and {ours!r} in the student's "
                    "tokenizer; distillation needs the same one"
                )


def _prompts(row: Row) -> list[list[int]]:
    """Each segment with the target of its last token: a prompt's tokens after the first are the targets."""
    edges = np.cumsum([0, *row.lengths])
    return [
        [*row.ids[low:high].tolist(), int(row.targets[high - 1])]
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        if high > low
    ]


def _kept(entries: Sequence[Any], prompt: Sequence[int], width: int, name: str) -> Answers:
    """The streams of one prompt's targets."""
    size = len(prompt) - 1
    ids, logps = np.zeros((size, width), np.int64), np.zeros((size, width))
    own = np.zeros(size)
    for at, (token, entry) in enumerate(zip(prompt[1:], entries[1:], strict=True)):
        ranked = sorted((int(one["rank"]), int(key), float(one["logprob"])) for key, one in entry.items())[
            :width
        ]
        if len(ranked) < width or ranked[-1][0] > width:
            raise DataError(
                f"teacher {name}: returns fewer than {width} likeliest tokens; give a smaller targets.k, "
                "or raise the server's limit (vLLM: --max-logprobs)"
            )
        ids[at], logps[at] = [one[1] for one in ranked], [one[2] for one in ranked]
        own[at] = float(entry[str(token)]["logprob"])
    rest = 1 - np.exp(logps).sum(1)
    tail = np.where(rest > 0, np.log(np.maximum(rest, 1e-30)), LEAST_LOG)
    return {
        "teacher_ids": ids,
        "teacher_logps": logps.clip(LEAST_LOG),
        "teacher_tail": tail,
        OWN: own.clip(LEAST_LOG),
    }
