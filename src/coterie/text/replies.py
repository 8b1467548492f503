"""An incremental parser of what a model writes: reasoning, content, tool calls.

It serves every family; `reply_formats` declares how they write. Text that is not well-formed stays content,
its marks included.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coterie.config.errors import DataError
from coterie.text.messages import Message, ToolCall, read_call
from coterie.text.reply_formats import Region, ReplyFormat, format_of
from coterie.text.stop_strings import StopStrings

_PEEK = 200  # characters within which `while` decides


@dataclass(frozen=True)
class NumberedCall:
    """A tool call of one reply: its place among the reply's calls, an id for its result, and the call."""

    index: int
    id: str
    call: ToolCall


@dataclass
class Delta:
    """What the last text made certain: text to append, and whole calls."""

    reasoning: str = ""
    content: str = ""
    calls: list[NumberedCall] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content or self.calls)

    def add(self, later: Delta) -> None:
        """Append the text and the calls of a later delta of the same reply."""
        self.reasoning += later.reasoning
        self.content += later.content
        self.calls += later.calls


def long_id() -> str:
    """A new id of a call, as OpenAI writes them."""
    return "call_" + secrets.token_hex(12)


def short_id() -> str:
    """A new id of a call for templates that insist on nine letters and digits, as Mistral's do."""
    return secrets.token_hex(5)[:9]


class ReplyParser:
    """Parses a reply from pieces of its text; how it is cut does not matter.

    `opened`: the prompt ended inside a reasoning block. `tools`: whether calls are parsed or stay text.
    `new_id` makes the ids of calls. `stops`: texts that end the reply where they occur in its content,
    without the white space before it; reasoning and calls may contain them. `stopped`: whether one has.
    `include_stop`: the stop stays in the content.
    """

    def __init__(
        self,
        form: ReplyFormat | None = None,
        opened: bool = False,
        tools: bool = True,
        new_id: Callable[[], str] = long_id,
        stops: Sequence[str] = (),
        include_stop: bool = False,
    ) -> None:
        form = form or format_of(None)
        regions = form.regions
        self._regions = tuple(region for region in regions if tools or region.kind != "calls")
        self._tools, self._new_id = tools, new_id
        self._region = form.reasoning if opened else None
        self._mark = ""  # that opened the region
        self._part = "reasoning"  # where text of the region goes; "" while its head is read
        self._text = ""  # not yet decided
        self._space = {"reasoning": "", "content": ""}
        self._whole = Delta()
        self._thought = False
        self._stops = StopStrings(stops, include_stop)
        self._has_content = False
        self.stopped = False

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the reply."""
        return self._stops.found

    @property
    def reasoning(self) -> bool:
        """Whether the reply is inside reasoning."""
        return self._region is not None and self._region.kind != "calls" and self._part == "reasoning"

    def arm(self, armed: bool) -> None:
        """Set whether `stops` count in the text that follows."""
        self._stops.armed = armed

    def feed(self, text: str) -> Delta:
        """Take in the next text of the reply; returns what it made certain."""
        self._text += text
        return self._run(last=False)

    def finish(self) -> Message:
        """The whole message, after the last text. A mark that was never completed is text."""
        self.flush()
        whole = self._whole
        calls = tuple(replace(numbered.call, id=numbered.id) for numbered in whole.calls)
        return Message("assistant", whole.content, whole.reasoning if self._thought else None, calls)

    def flush(self) -> Delta:
        """Take the end of the reply; returns what was held back until then."""
        return self._run(last=True)

    def _run(self, last: bool) -> Delta:
        new = Delta()
        while not self.stopped and self._advance(new, last):
            pass
        if last and not self.stopped:
            self._append(new, "content", self._stops.finish())
        return new

    def _advance(self, new: Delta, last: bool) -> bool:
        """One step; False when more text is needed."""
        region = self._region
        if region is None:
            return self._outside(new, last)
        if region.kind == "calls":
            return self._calls(new, region, last)
        if region.kind == "message" and self._part == "":
            return self._head(new, region, last)
        if region.kind == "message" and self._part.startswith("to="):
            return self._calls(new, region, last)
        self._thought = self._thought or self._part == "reasoning"
        at, mark = _first(self._text, region.close)
        if mark:
            self._add(new, self._part, self._text[:at])
            self._text = self._text[at + len(mark) :]
            self._leave()
            return True
        keep = 0 if last else _held(self._text, region.close)
        self._add(new, self._part, self._text[: len(self._text) - keep])
        self._text = self._text[len(self._text) - keep :]
        return False

    def _outside(self, new: Delta, last: bool) -> bool:
        """Content up to the next mark that opens a region."""
        started = self._has_content or bool(self._whole.calls)
        if not started:
            bare = self._text.lstrip()
            starts = [
                r for r in self._regions if r.at_start and not (r.kind == "reasoning" and self._thought)
            ]
            for region in starts:
                for mark in region.open:
                    if bare.startswith(mark):
                        return self._enter(region, mark, bare)
            if not last and any(mark.startswith(bare) for region in starts for mark in region.open):
                return False
        anywhere = [region for region in self._regions if not region.at_start]
        marks = tuple(mark for region in anywhere for mark in region.open)
        at, mark = _first(self._text, marks)
        if mark:
            self._add(new, "content", self._text[:at])
            return self._enter(next(r for r in anywhere if mark in r.open), mark, self._text[at:])
        keep = 0 if last else _held(self._text, marks)
        self._add(new, "content", self._text[: len(self._text) - keep])
        self._text = self._text[len(self._text) - keep :]
        return False

    def _enter(self, region: Region, mark: str, text: str) -> bool:
        self._region, self._mark = region, "" if region.keep else mark
        self._text = text if region.keep else text[len(mark) :]
        self._part = "" if region.kind == "message" else "reasoning"
        return True

    def _leave(self) -> None:
        if self._region is not None and self._region.kind == "message" and self._part in self._space:
            self._space[self._part] += "\n"  # a further message of the same kind begins on a new line
        self._region, self._mark = None, ""

    def _head(self, new: Delta, region: Region, last: bool) -> bool:
        """The head of a message, up to its mark: it names the channel or the receiver."""
        head, found, rest = self._text.partition(region.head_end)
        if not found:
            if last:
                self._stays(new, self._mark + self._text, "")
            return last
        receiver = re.search(r"\bto=(?:functions\.)?([\w.-]+)", head)
        self._mark += head + found
        self._text = rest
        thinks = re.search(r"\banalysis\b", head) is not None
        self._part = f"to={receiver[1]}" if receiver and self._tools else "reasoning" if thinks else "content"
        return True

    def _calls(self, new: Delta, region: Region, last: bool) -> bool:
        """The inside of a region of calls: parsed as a whole, or left as text."""
        at, mark = _first(self._text, region.close)
        if not mark:
            beginning = self._text[:_PEEK]
            if region.viable and not re.fullmatch(region.viable, beginning, re.DOTALL):
                self._stays(new, self._text[:1], self._text[1:])
                return True
            if not last:
                return False
            at = len(self._text)
        inside, rest = self._text[:at], self._text[at + len(mark) :]
        calls = _read(self._part, region.read, inside) if mark or region.ends else []
        if calls:
            for call in calls:
                numbered = NumberedCall(len(self._whole.calls), self._id_of(call), call)
                new.calls.append(numbered)
                self._whole.calls.append(numbered)
            self._text = rest
            self._leave()
            return True
        self._stays(new, self._mark + inside + mark, rest)
        return True

    def _id_of(self, call: ToolCall) -> str:
        """The id that the model wrote, unless it is odd or the reply has it already; else a new one."""
        taken = {numbered.id for numbered in self._whole.calls}
        written = call.id or ""
        good = re.fullmatch(r"[\w.:-]{1,64}", written) is not None and written not in taken
        return written if good else self._new_id()

    def _stays(self, new: Delta, text: str, rest: str) -> None:
        """Add text that is not a call to the content, and parse `rest` again."""
        self._add(new, "content", text)
        self._text = rest
        self._region, self._mark = None, ""

    def _add(self, new: Delta, part: str, text: str) -> None:
        """Add text; content only up to a stop string."""
        if part == "content":
            text = text if self._has_content else text.lstrip()
            self._has_content = self._has_content or bool(text)
            text, self.stopped = self._stops.push(text)
        self._append(new, part, text)
        if part == "content" and self.stopped:
            # The reply goes right up to the stop string, white space included.
            rest, self._space[part] = self._space[part], ""
            new.content += rest
            self._whole.content += rest

    def _append(self, new: Delta, part: str, text: str) -> None:
        """Add text without white space at the start and, until more follows, at the end."""
        text = self._space[part] + text
        begun = getattr(self._whole, part)
        if not begun:
            text = text.lstrip()
        kept = text.rstrip()
        self._space[part] = text[len(kept) :]
        setattr(new, part, getattr(new, part) + kept)
        setattr(self._whole, part, begun + kept)


def parse_reply(text: str, form: ReplyFormat | None = None, opened: bool | None = None) -> Message:
    """Split a reply into reasoning, tool calls and content; text that is not well-formed stays content.

    `opened`: the prompt ended inside reasoning; None looks for an end of reasoning without a beginning. If
    reasoning is never closed, everything after its beginning is reasoning.
    """
    form = form or format_of(None)
    if opened is None:
        thought = form.reasoning
        at, end = _first(text, thought.close if thought else ())
        opened = bool(thought and end and _first(text[:at], thought.open)[1] == "")
    parser = ReplyParser(form, opened)
    parser.feed(text)
    return parser.finish()


def _first(text: str, marks: tuple[str, ...]) -> tuple[int, str]:
    """Place and text of the earliest mark, the longest of those that begin there; (-1, "") for none."""
    found = [(text.find(mark), -len(mark), mark) for mark in marks if mark in text]
    at, _, mark = min(found, default=(-1, 0, ""))
    return at, mark


def _held(text: str, marks: tuple[str, ...]) -> int:
    """How many characters at the end of `text` may be the beginning of a mark."""
    longest = max(map(len, marks), default=1) - 1
    ends = range(min(longest, len(text)), 0, -1)
    return next((n for n in ends if any(mark.startswith(text[-n:]) for mark in marks)), 0)


def _read(part: str, ways: tuple[str, ...], text: str) -> list[ToolCall]:
    """The calls in a region, by the first way of `ways` that can read it; else none."""
    name = part.removeprefix("to=") if part.startswith("to=") else ""
    for way in ways:
        try:
            calls = [read_call({"name": name, "arguments": text})] if way == "named" else _READERS[way](text)
        except (ValueError, SyntaxError, DataError, RecursionError, MemoryError):
            continue
        if calls:
            return calls
    return []


def _read_json(text: str) -> list[ToolCall]:
    """One object or several (as a list, or one after another), each with a name and perhaps arguments."""
    return [read_call(value) for value in _values(text)]


def _read_bare(text: str) -> list[ToolCall]:
    """As `json`, but as an answer may be JSON too, a call needs a name and arguments."""
    values = _values(text)
    for value in values:
        if not isinstance(value, Mapping) or not value.keys() & {"arguments", "parameters", "function"}:
            raise DataError("no call")
    return [read_call(value) for value in values]


def _values(text: str) -> list[Any]:
    decoder, at, found = json.JSONDecoder(), 0, []
    text = text.strip()
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        found += value if isinstance(value, list) else [value]
        while at < len(text) and text[at] in "; ,\n\r\t":
            at += 1
    return found


def _read_pythonic(text: str) -> list[ToolCall]:
    """`[f(a=1), g(b="x")]`, values as literals (also true, false and null)."""
    tree = ast.parse(text.strip(), mode="eval").body
    calls = tree.elts if isinstance(tree, ast.List) else [tree]
    return [_pythonic_call(call) for call in calls]


def _pythonic_call(call: ast.expr) -> ToolCall:
    if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
        raise DataError("no call")
    arguments = {str(word.arg): ast.literal_eval(_LiteralNames().visit(word.value)) for word in call.keywords}
    return ToolCall(ast.unparse(call.func), json.loads(json.dumps(arguments)))


class _LiteralNames(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        names = {"true": True, "false": False, "null": None}
        return ast.Constant(names[node.id]) if node.id in names else node


def _read_separated(mark: str, begin: str, end: str) -> Callable[[str], list[ToolCall]]:
    """A reader of calls NAME `mark` ARGUMENTS, each between `begin` and `end`; the JSON may be fenced."""

    def read(text: str) -> list[ToolCall]:
        calls = []
        for piece in filter(str.strip, re.split("|".join(map(re.escape, filter(None, (begin, end)))), text)):
            name, found, arguments = piece.strip().removeprefix("function" + mark).partition(mark)
            if not found:
                name, found, arguments = name.partition("\n")
            arguments = re.sub(r"^\s*```(?:json)?\s*\n(.*)\n\s*```\s*$", r"\1", arguments, flags=re.DOTALL)
            calls.append(read_call({"name": name.strip() if found else "", "arguments": arguments}))
        return calls

    return read


_READERS: dict[str, Callable[[str], list[ToolCall]]] = {
    "json": _read_json,
    "bare": _read_bare,
    "pythonic": _read_pythonic,
    "args": _read_separated("[ARGS]", "[TOOL_CALLS]", ""),
    "sep": _read_separated("<｜tool▁sep｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
}
