"""What a chat template shows of a conversation, found by rendering small ones with and without each thing.

`template_facts` says it of a template, once; `left_out` says it of one conversation. Serving, tuning, lint
and doctor all ask here, so that they agree. Reading the template's source would not do: a template may
mention tools and never write them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from coterie.config.errors import DataError
from coterie.text.messages import Message, TextPart, ToolCall, long_id, short_id
from coterie.text.rendering import GIVEN, render

if TYPE_CHECKING:
    from coterie.text.tokenizer import Tokenizer

_MARK = "q7zk{}x3"  # texts of the probes: nothing that a template writes itself, changes or escapes
_CALL_IDS = ("abcdefgh1", "call_" + "0" * 24)  # short, long


@dataclass(frozen=True)
class TemplateFacts:
    """What a chat template shows, and what it refuses (`refuses`: names of the fields below).

    `tools`: the tools that may be called; `calls`: an assistant's calls; `results`: what they returned;
    `system`: a system message; `reasoning`: the reasoning of the last reply. What it refuses it does not
    show. `reads`: the variables that it reads besides the conversation. `long_ids`: whether it takes ids of
    calls as OpenAI writes them (templates of Mistral insist on nine characters).
    """

    tools: bool
    calls: bool
    results: bool
    system: bool
    reasoning: bool
    refuses: frozenset[str]
    reads: frozenset[str]
    long_ids: bool

    def new_id(self) -> str:
        """A new id for a call, of a form that the template takes."""
        return long_id() if self.long_ids else short_id()

    def unread(self, arguments: Mapping[str, Any] | None) -> list[str]:
        """The names of template arguments that the template never reads."""
        return sorted(name for name in arguments or () if name not in self.reads)

    def lost(self, messages: Sequence[Message] = (), tools: Sequence[Any] | None = None) -> list[str]:
        """Which kinds of thing in a conversation the template leaves out: `tools`, `calls`..., in this order.

        A kind that it refuses is not among them: rendering says why it does.
        """
        there = {
            "tools": bool(tools),
            "calls": any(message.tool_calls for message in messages),
            "results": any(message.role == "tool" and message.text for message in messages),
            "system": any(message.role == "system" and message.text for message in messages),
            "reasoning": any(message.reasoning for message in messages),
        }
        return [
            kind
            for kind, held in there.items()
            if held and not getattr(self, kind) and kind not in self.refuses
        ]

    def complaint(
        self,
        messages: Sequence[Message] = (),
        tools: Sequence[Any] | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> str | None:
        """One line on what of a conversation the template does not show, and what to do; None for nothing."""
        for name in arguments or ():
            if name in GIVEN:
                return f"chat template: '{name}' is no argument but part of the conversation; leave it out"
        for name in self.unread(arguments):
            return f"chat template: it does not read the argument '{name}'; leave it out"
        calls = [call.name for message in messages for call in message.tool_calls]
        words = {
            "tools": "it shows no tools, so those of this conversation are left out",
            "calls": f"it shows no tool calls, so the call of '{calls[0] if calls else ''}' is left out",
            "results": "it shows no results of tools, so they are left out",
            "system": "it shows no system messages, so they are left out",
        }
        # Reasoning of earlier turns is left out by design; `render_ids` looks at what is to be learnt.
        for kind in (kind for kind in self.lost(messages, tools) if kind in words):
            return (
                f"chat template: {words[kind]}; give one that shows them (--template chatml, or a file) or "
                "remove them"
            )
        return None


def facts_of(
    tokenizer: Tokenizer, tools: bool = False, arguments: Mapping[str, Any] | None = None
) -> TemplateFacts:
    """The facts of the template that a tokenizer uses, with tools or without them.

    Errors: `DataError` for a tokenizer without a chat template.
    """
    return template_facts(tokenizer.template_for(tools), {**tokenizer.named_tokens, **(arguments or {})})


def complaint_of(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Any] | None,
    arguments: Mapping[str, Any] | None = None,
) -> str | None:
    """`TemplateFacts.complaint` for the template that a tokenizer uses for this conversation.

    A template may show something only with certain arguments, so these are tried before it is said.
    Errors: `DataError` for a tokenizer without a chat template.
    """
    said = facts_of(tokenizer, bool(tools)).complaint(messages, tools, arguments)
    if said is not None and arguments:
        said = facts_of(tokenizer, bool(tools), arguments).complaint(messages, tools, arguments)
    return said


def template_facts(template: str, variables: Mapping[str, Any] | None = None) -> TemplateFacts:
    """What `template` shows, given `variables` (`bos_token`..., template arguments). Found once per pair."""
    return _facts(template, json.dumps(variables or {}, sort_keys=True, default=str))


@functools.lru_cache(maxsize=128)
def _facts(template: str, variables: str) -> TemplateFacts:
    names = json.loads(variables)

    refused: set[str] = set()

    def shows(kind: str, marks: Sequence[str], talks: Sequence[list[Message]], tools: Any = None) -> bool:
        """Whether a rendering of a talk holds all marks. `kind` is refused when every talk is."""
        taken = False
        for talk in talks:
            for prompt in (False, True):
                try:
                    text = render(talk, template, prompt, tools, names)
                except DataError:
                    continue
                taken = True
                if all(mark in text for mark in marks):
                    refused.discard(kind)
                    return True
        if taken:
            refused.discard(kind)
        else:
            refused.add(kind)
        return False

    def talks(id: str) -> list[list[Message]]:
        """A call, with its result and without."""
        call = Message("assistant", "", None, (ToolCall(_MARK.format(3), {"a": _MARK.format(4)}, id),))
        result = Message("tool", _MARK.format(5), name=_MARK.format(3), tool_call_id=id)
        return [[ask, call, result], [ask, call, result, reply], [ask, call]]

    ask, reply = Message("user", _MARK.format(1)), Message("assistant", _MARK.format(2))
    system = Message("system", _MARK.format(0))
    called = [talk for id in _CALL_IDS for talk in talks(id)]
    thought = Message("assistant", _MARK.format(2), _MARK.format(6))
    tool = {"name": _MARK.format(7), "description": _MARK.format(8), "parameters": _NO_PARAMETERS}
    tools = [{"type": "function", "function": tool}]
    asked = [[ask], [system, ask]]
    named = [_MARK.format(3), _MARK.format(4)]
    shown = {
        "tools": shows("tools", [_MARK.format(7)], asked, tools),
        "calls": shows("calls", named, called) or shows("calls", named, called, tools),
        "results": shows("results", [_MARK.format(5)], called)
        or shows("results", [_MARK.format(5)], called, tools),
        "system": shows("system", [_MARK.format(0)], [[system, ask], [system, ask, reply]]),
        "reasoning": shows("reasoning", [_MARK.format(6)], [[ask, thought]]),
    }
    return TemplateFacts(
        **shown,
        refuses=frozenset(refused),
        reads=_names_read(template),
        long_ids=shows("", [], talks(_CALL_IDS[1])) or not shows("", [], talks(_CALL_IDS[0])),
    )


def _names_read(template: str) -> frozenset[str]:
    """The variables that a template reads and does not set itself. A broken template reads none."""
    import jinja2.meta  # slow to import

    from coterie.text.template_sandbox import environment

    try:
        names = jinja2.meta.find_undeclared_variables(environment().parse(template))
    except (jinja2.TemplateError, RecursionError):
        return frozenset()
    return frozenset(names) - {*GIVEN}


_NO_PARAMETERS = {"type": "object", "properties": {}}


def left_out(
    messages: Sequence[Message], text: str, rendered: Callable[[Sequence[Message]], str]
) -> Iterator[tuple[int, str]]:
    """What the rendered `text` of a conversation does not show, as (index of the message, what is missing).

    Looks at what people and the assistant say and at the names of calls, not at reasoning, which templates
    drop from earlier turns as documented. Words are first looked for as they are. Only when some are not
    found in order, `rendered` is asked for the conversation with a mark in the place of each, because a
    template may also have changed their form (JSON, white space).
    """
    if _in_order(messages, text):
        return
    marked = [_marked(index, message) for index, message in enumerate(messages)]
    try:
        text = rendered(marked)
    except DataError:
        return  # it insists on certain words, so nothing can be said
    for index, (message, mark) in enumerate(zip(messages, marked, strict=True)):
        if message.text.strip() and mark.text not in text:
            yield index, "the words"
        for call, named in zip(message.tool_calls, mark.tool_calls, strict=True):
            if named.name not in text:
                yield index, f"the call of '{call.name}'"


def _in_order(messages: Sequence[Message], text: str) -> bool:
    at = 0
    for message in messages:
        for words in (message.text.strip(), *(call.name for call in message.tool_calls)):
            found = text.find(words, at)
            if found < 0:
                return False
            at = found + len(words)
    return True


def _marked(index: int, message: Message) -> Message:
    calls = [
        replace(call, name=f"q7zk_{index}_{number}_x3") for number, call in enumerate(message.tool_calls)
    ]
    words = (TextPart(f"q7zk{index}x3"),) if message.text.strip() else message.content
    return replace(message, content=words, tool_calls=tuple(calls))
