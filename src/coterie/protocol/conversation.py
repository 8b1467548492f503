"""A chat request prepared for the engine: its prompt, its jobs, and how to parse the replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coterie.config import CoterieError
from coterie.config.errors import DataError
from coterie.config.json_text import JsonError, JsonLimits, parse_json_object
from coterie.hosting.constraints.grammar import GrammarFilter
from coterie.hosting.engine_thread import Job
from coterie.hosting.errors import ApiError, invalid
from coterie.hosting.service import Service
from coterie.infer.request import TokenFilter
from coterie.infer.thinking import ThinkingBudget, opens_reasoning
from coterie.protocol.demands import Demand, SchemaCheck, names_of, shown_tools
from coterie.protocol.fields import Ignored
from coterie.protocol.moe import options_of
from coterie.protocol.requests import ChatMessage, ChatRequest, choose_tokens
from coterie.protocol.structured import check_end
from coterie.protocol.thinking_fields import settled, thinking_bound
from coterie.protocol.tool_bodies import CustomCallItem, ToolCallItem
from coterie.reasoning.votes import VoteRule
from coterie.text.chat import Message, conversation_ids
from coterie.text.messages import long_id
from coterie.text.rendering import GIVEN
from coterie.text.replies import ReplyParser
from coterie.text.reply_formats import ReplyFormat, format_of
from coterie.text.template_facts import TemplateFacts, facts_of

ARGUMENTS = JsonLimits(depth=64, items=200_000)  # of a call in the history
# What `x-coterie-ignored` calls what the model's template does not show.
_LOST = {
    "tools": "tools",
    "calls": "messages.tool_calls",
    "results": "messages.tool",
    "system": "messages.system",
    "reasoning": "messages.reasoning_content",
}


@dataclass(frozen=True)
class Conversation:
    """A prepared chat request.

    `prompt`: token ids. `jobs`: one per choice. `opened`: the prompt ends inside reasoning. `hide_calls`:
    tool calls are left out of the reply. `one_call`: the reply ends after its first call. `forced`: it ends
    before it repeats a call word for word, because a model that must call may never stop by itself.
    `stops`: texts that end the reply's content, and stay in it with `include_stop`. `ignored`: fields without
    effect on this model. `check`: of finished replies, for what a grammar does not enforce. `customs`: names
    of custom tools. `new_id`: makes the ids of calls, as the template takes them. `vote`: the replies elect
    one of them by this rule. `process`: each reply comes with its steps.
    """

    prompt: list[int]
    jobs: list[Job]
    num_logprobs: int | None
    form: ReplyFormat
    opened: bool
    has_tools: bool
    hide_calls: bool
    one_call: bool
    forced: bool = False
    stops: tuple[str, ...] = ()
    include_stop: bool = False
    routing: str = "off"
    ignored: tuple[str, ...] = ()
    check: SchemaCheck | None = None
    customs: frozenset[str] = frozenset()
    new_id: Callable[[], str] = long_id
    vote: VoteRule | None = None
    process: bool = False

    def parser(self) -> ReplyParser:
        """A parser for one reply."""
        return ReplyParser(
            self.form,
            self.opened,
            self.has_tools,
            self.new_id,
            self.stops,
            include_stop=self.include_stop,
            streamed=True,
        )


def prepare(service: Service, body: ChatRequest, variant: str) -> Conversation:
    """Render, check and count; the jobs go to `variant`. Errors: `ApiError` 400; nothing is queued then."""
    _check(body)
    strict = service.settings.strict
    demand = Demand.of(body, strict)
    tools = shown_tools(body)
    hide = demand.mode == "none"
    shown = [] if hide else tools
    facts = template_facts(service, bool(shown))
    template = service.tokenizer.template_for(bool(shown))
    form = format_of(template)
    body, unmet = settled(body, template, facts, form)
    variables, unread = _template_settings(facts, body)
    messages = [_message(message, index, unread) for index, message in enumerate(body.messages)]
    lost = [_LOST[kind] for kind in facts.lost(messages, shown)]
    ignored = reported([*unmet, *unread, *lost, *demand.ignored], strict)
    prompt = _prompt(service, body, messages, shown, variables)
    num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    asked = body.max_completion_tokens or body.max_tokens
    prompt = body.cut(prompt, asked or service.model.reply_limit, service.max_length)
    limit = choose_tokens(asked, len(prompt), service.max_length, service.model.reply_limit)
    params = body.sampling(service.model, limit, num_logprobs or 0)
    # Stop strings end the content, which only the parser of the reply knows; stop ids end any part of it.
    stops, params = params.stop, replace(params, stop=())
    options = replace(options_of(service, body, variant), prediction=_expected(service, body))
    opened = opens_reasoning(service.tokenizer, form, prompt)
    budget = thinking_bound(body, limit)
    kept = demand.filter(service.grammars, opened)
    check_end(body, kept)
    ignored += reported(names_of(kept.unenforced if kept is not None else ()), strict)
    if body.votes and params.temperature == 0:
        raise invalid("/votes: at temperature 0 all replies are the same; set a temperature", "/votes")
    jobs = []
    for index in range(body.votes or body.n or 1):
        seed = None if params.seed is None else (params.seed + index) % 2**64
        filtered = replace(options, filter=_bounded(service, budget, form, opened, kept))
        if index == 0:  # the choices have one prompt
            filtered = replace(filtered, prompt_logprobs=body.prompt_logprobs)
        jobs.append(Job(prompt, replace(params, seed=seed), filtered))
    return Conversation(
        prompt=prompt,
        jobs=jobs,
        num_logprobs=num_logprobs,
        form=form,
        opened=opened,
        has_tools=bool(tools),
        hide_calls=hide,
        one_call=body.parallel_tool_calls is False,
        forced=demand.mode == "required",
        stops=stops,
        include_stop=params.include_stop,
        routing=body.routing,
        ignored=ignored,
        check=demand.check(kept),
        customs=demand.customs,
        new_id=facts.new_id,
        vote=(body.vote_rule or "auto") if body.votes else None,
        process=bool(body.process),
    )


def _check(body: ChatRequest) -> None:
    """Refuse fields that cannot go together, whatever the model. Errors: `ApiError` 400."""
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("/top_logprobs: needs 'logprobs': true", "/top_logprobs")
    if body.continue_final_message and body.add_generation_prompt:
        raise invalid(
            "/continue_final_message: cannot go with add_generation_prompt", "/continue_final_message"
        )
    for name in ("n", "tools") if body.votes else ():
        if getattr(body, name) not in (None, 1, []):
            raise invalid(f"/votes: cannot go with '{name}'", "/votes")
    if body.vote_rule is not None and body.votes is None:
        raise invalid("/vote_rule: needs 'votes'", "/vote_rule")
    if body.max_tokens == 0:
        raise invalid("/max_tokens: a reply has at least one token", "/max_tokens")


def _expected(service: Service, body: ChatRequest) -> tuple[int, ...]:
    """The tokens of the client's prediction."""
    return () if body.prediction is None else tuple(service.tokenizer.encode(body.prediction.text))


def _bounded(
    service: Service, budget: int | None, form: ReplyFormat, opened: bool, kept: GrammarFilter | None
) -> TokenFilter | None:
    """The filter of one reply: its grammar, and the bound on its reasoning if there is one."""
    kept = None if kept is None else kept.fresh()
    if budget is None:
        return kept
    vocab_size = service.model.config.vocab_size
    return ThinkingBudget(budget, form, service.tokenizer, vocab_size, opened, kept)


def template_facts(service: Service, tools: bool) -> TemplateFacts:
    """What the template of a conversation shows. Errors: `ApiError` 400 when the model has none for it."""
    try:
        return facts_of(service.tokenizer, tools)
    except DataError as error:
        named = bool(service.tokenizer.templates.named)
        reason = str(error) if named else "the model has no chat template; use /v1/completions"
        raise ApiError(400, reason, "no_chat_template", "/messages") from None


def _template_settings(facts: TemplateFacts, body: ChatRequest) -> tuple[dict[str, Any], Ignored]:
    """Variables for the template, and the fields that it never reads, which cannot change the prompt."""
    given, unread = dict(body.chat_template_kwargs or {}), Ignored()
    for name in facts.unread(given):
        if name in GIVEN:
            pointer = f"/chat_template_kwargs/{name}"
            raise invalid(f"{pointer}: is part of the conversation, not an argument", pointer)
        unread.add("chat_template_kwargs", name)
        del given[name]
    return given, unread


def reported(names: Sequence[str], strict: bool) -> tuple[str, ...]:
    """The names of fields without effect on this model. Errors: `ApiError` 400 for any where `strict`."""
    for name in names if strict else ():
        pointer = name if name.startswith("/") else "/" + name.replace(".", "/")
        pointer = "/messages" if name.startswith("messages.") else pointer
        reason = "has no effect on this model, and --strict refuses such fields"
        raise ApiError(400, f"{name}: {reason}", "unsupported_parameter", pointer)
    return tuple(names)


def _prompt(
    service: Service,
    body: ChatRequest,
    messages: list[Message],
    tools: list[Any],
    variables: dict[str, Any],
) -> list[int]:
    end = ""
    if body.continue_final_message:
        last = messages.pop()
        if last.role != "assistant" or last.tool_calls:
            raise invalid("/messages: the last one must be the assistant's text to be continued", "/messages")
        end = last.text
    ask = body.continue_final_message or body.add_generation_prompt is not False
    try:
        prompt = conversation_ids(service.tokenizer, messages, None, bool(ask), tools, variables)
        return prompt + (service.tokenizer.encode(end) if end else [])
    except ApiError:
        raise
    except CoterieError as error:
        raise invalid(f"/messages: {error}", "/messages") from None


def _message(given: ChatMessage, index: int, unread: Ignored) -> Message:
    pointer = f"/messages/{index}"
    content: Any = given.content
    if isinstance(content, list):
        content = [{"type": "text", "text": part.text} for part in content]
    if content is None and given.role == "assistant" and not given.tool_calls:
        content = ""  # so a reply that holds only reasoning comes back
    if given.reasoning_content is not None and given.reasoning not in (None, given.reasoning_content):
        raise invalid(
            f"{pointer}/reasoning: differs from reasoning_content; send one", f"{pointer}/reasoning"
        )
    called: dict[str, Any] = {}
    if given.tool_calls is not None:
        called["tool_calls"] = [_called(call, unread) for call in given.tool_calls]
    role = "system" if given.role == "developer" else given.role
    data = {"role": role, "content": content, "reasoning_content": given.reasoning_content}
    data |= {"reasoning": given.reasoning, **called, "tool_call_id": given.tool_call_id, "name": given.name}
    try:
        return Message.from_dict(data)
    except CoterieError as error:
        raise invalid(f"{pointer}: {error}", pointer) from None


def _called(call: ToolCallItem | CustomCallItem, unread: Ignored) -> dict[str, Any]:
    """A call in the history, as the template is given it."""
    function = {"name": call.function.name, "arguments": _arguments(call.function.arguments, unread)}
    return {**({} if call.id is None else {"id": call.id}), "type": "function", "function": function}


def _arguments(text: str, unread: Ignored) -> dict[str, Any]:
    """The arguments of a call in the history, as JSON text; "" is how some models say none.

    Clients send back what a model wrote, with the tool's complaint, even if it is not a JSON object: cut off,
    say. The model then sees its own text, as `raw`.
    """
    try:
        return parse_json_object(text, ARGUMENTS) if text.strip() else {}
    except JsonError:
        unread.add("messages.tool_calls.function", "arguments")
        return {"raw": text}
