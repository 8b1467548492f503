"""A served tiny model whose replies follow a script, for clients whose model must say something definite.

The engine, the tokenizer, the parsing of tool calls and the protocols are the real ones: only the choice of
each token is taken from the script, as a grammar would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.config import BlockConfig, ModelConfig
from coterie.hosting.engine_thread import Call, Job
from coterie.hosting.host import Host
from coterie.hosting.service import Service
from coterie.infer.model import LanguageModel
from coterie.infer.request import TokenFilter
from coterie.nn.transformer import Transformer
from coterie.serve.server import ServerThread
from coterie.text.tokenizer import END_OF_TURN, Tokenizer
from tests.infer.models import DENSE, SLIDING
from tests.serve.support import service

# The prompt's text and whether a grammar holds the reply -> the reply's text, None for the model's own.
Say = Callable[[str, bool], str | None]
ROOT = Path(__file__).parents[2]
NEAR = SLIDING.model_copy(update={"window": 64})  # the time to read a prompt grows with its length only


class Spoken:
    """Allows one text and the end of the turn after it; a grammar beneath it must allow them too."""

    def __init__(self, ids: Sequence[int], vocab_size: int, beneath: TokenFilter | None) -> None:
        self._ids, self._size, self._beneath = ids, vocab_size, beneath
        self._at = 0
        self.failure: str | None = None

    def allowed(self) -> Tensor | None:
        """The next token of the text only."""
        token = self._ids[min(self._at, len(self._ids) - 1)]
        below = None if self._beneath is None else self._beneath.allowed()
        if below is not None and not below[token]:
            self.failure = f"the grammar does not allow token {self._at} of the script"
        mask_V = torch.zeros(self._size, dtype=torch.bool)
        mask_V[token] = True
        return mask_V

    def accept(self, token: int) -> None:
        """Go on to the next token."""
        self._at += 1
        if self._beneath is not None:
            self._beneath.accept(token)
            self.failure = self.failure or self._beneath.failure


def follow(made: Service, say: Say) -> Service:
    """The service, its replies now those of `say`."""
    tokenizer, submit = made.model.tokenizer, made.thread.submit

    def scripted(jobs: Sequence[Job]) -> Call:
        return submit([_follow(job, tokenizer, made.model.config.vocab_size, say) for job in jobs])

    made.thread.submit = scripted  # type: ignore[method-assign]
    return made


def _follow(job: Job, tokenizer: Tokenizer, size: int, say: Say) -> Job:
    said = say(tokenizer.decode(job.prompt), job.options.filter is not None)
    if said is None:  # a random model would begin to reason at times, and never end it
        bias = *job.params.logit_bias, (tokenizer.encode("<think>", allow_special=True)[0], -100.0)
        return replace(job, params=replace(job.params, logit_bias=bias))
    ids = tokenizer.encode(said + END_OF_TURN, allow_special=True)
    return replace(job, options=replace(job.options, filter=Spoken(ids, size, job.options.filter)))


def calls_twice(arguments: Mapping[str, Mapping[str, Any]], fallback: str | None = None) -> Say:
    """A model that calls the first offered tool of `arguments` two times, then tells what came back.

    Without such a tool it says `fallback`.
    """

    def say(prompt: str, held: bool) -> str | None:
        last = prompt.rsplit("<|im_start|>user\n", 1)[-1]
        results = re.findall(r"<tool_response>\n(.*?)\n</tool_response>", last, re.DOTALL)
        offered = [name for name in arguments if f'"name": "{name}"' in prompt]
        if not offered:
            return fallback
        if len(results) < 2:
            call = json.dumps({"name": offered[0], "arguments": arguments[offered[0]]})
            return f"<tool_call>\n{call}\n</tool_call>"
        return "The tool said: " + " and ".join(result.strip() for result in results)

    return say


def for_clients(prompt: str, held: bool) -> str | None:
    """What the tests of released clients need: tool calls, a long reply, JSON that no schema forces.

    Greetings get the model's own words, and so does what a schema forces.
    """
    last = prompt.rsplit("<|im_start|>user\n", 1)[-1]
    dog = {"name": "Rex", "age": 3}
    if "Count without end." in last:
        return None if held else "and one more " * 20_000
    if "Invent a dog." in prompt:
        if not held and '"name": "Dog"' in prompt:
            return "\n".join(
                ["<tool_call>\n" + json.dumps({"name": "Dog", "arguments": dog}) + "\n</tool_call>"] * 2
            )
        if "```json codeblock" in prompt:
            return f"```json\n{json.dumps(dog)}\n```"
        compact = json.dumps(dog, separators=(",", ":"))  # as the grammar for any JSON object has it
        return compact if "match the following json_schema" in prompt else None
    return calls_twice({"calculator": {"expression": "714 + 273"}})(prompt, held)


@cache
def wide_tokenizer() -> Tokenizer:
    """Trained on the guides, so that the long prompts of agents stay short."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
    return Tokenizer.train(texts, 3000)


def scripted(say: Say, max_positions: int = 65_536, **settings: Any) -> ServerThread:
    """A server of a tiny model with room for long prompts, called `tiny`, that follows the script."""
    tokenizer = wide_tokenizer()
    blocks = (BlockConfig(attention=NEAR, ffn=DENSE),) * 2
    shape = {"vocab_size": tokenizer.vocab_size, "width": 32, "max_positions": max_positions}
    model = Transformer(ModelConfig(family="test", blocks=blocks, **shape))
    return ServerThread(Host.of(follow(service(LanguageModel(model, tokenizer), **settings), say)))
