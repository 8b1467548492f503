"""`/tokenize`, `/detokenize` and `/tokenizer_info`, which evaluation harnesses use before scoring."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coterie.hosting.errors import invalid
from coterie.hosting.service import Service
from coterie.protocol.body import Body, Text
from coterie.protocol.conversation import prepare
from coterie.protocol.received import queried, receive
from coterie.protocol.requests import MAX_MESSAGES, ChatMessage, ChatRequest
from coterie.protocol.tool_bodies import AnyTool
from coterie.protocol.vectors import encode_text, read_as_letters
from coterie.protocol.wire import JsonAnswer


class TokenizeRequest(Body):
    """Text or a conversation."""

    place = "/tokenize"
    model: str | None = None
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    tools: list[AnyTool] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(Body):
    """Token ids."""

    place = "/detokenize"
    model: str | None = None
    tokens: Annotated[list[int], Field(max_length=200_000)]


async def tokenize(request: Request) -> Response:
    """Token ids of a text, or of a conversation rendered as the model's prompt."""
    received = await receive(request, TokenizeRequest)
    service, body = received.service, received.body
    if (body.prompt is None) == (body.messages is None):
        raise invalid("/prompt: give either a prompt or messages", "/prompt")
    answer, lost = await received.prepared(request, lambda: _tokens(service, body))
    return JsonAnswer(answer, headers=received.headers(lost))


def _tokens(service: Service, body: TokenizeRequest) -> tuple[dict[str, Any], list[str]]:
    """The answer, and what of the request has no effect."""
    lost: list[str] = []
    if body.prompt is not None:
        ids = encode_text(service, body.prompt, body.add_special_tokens)
    else:
        chat = ChatRequest(
            model=service.name,
            messages=body.messages or [],
            tools=body.tools,
            add_generation_prompt=body.add_generation_prompt,
        )
        talk = prepare(service, chat, "")  # every variant reads the same prompt
        ids, lost = talk.prompt, [*talk.ignored]
    answer: dict[str, Any] = {"count": len(ids), "max_model_len": service.max_length, "tokens": ids}
    if body.return_token_strs:
        answer["token_strs"] = [service.tokenizer.decode([token]) for token in ids]
    return answer, [*lost, *read_as_letters(service, body.prompt, "prompt")]


async def detokenize(request: Request) -> Response:
    """The text of token ids."""
    received = await receive(request, DetokenizeRequest)
    service, body = received.service, received.body
    known = service.tokenizer.vocab_size
    if any(not 0 <= token < known for token in body.tokens):
        raise invalid(f"/tokens: ids must be from 0 to {known - 1}", "/tokens")
    return JsonAnswer({"prompt": service.tokenizer.decode(body.tokens)}, headers=received.headers())


async def tokenizer_info(request: Request) -> Response:
    """The names of its special tokens and its chat template."""
    service = await queried(request)
    tokenizer = service.tokenizer
    names = {"bos_token": None, "pad_token": None, **tokenizer.named_tokens}
    return JsonAnswer(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "vocab_size": tokenizer.vocab_size,
            "chat_template": tokenizer.chat_template,
            **names,
        }
    )
