"""An incremental parser of what a model writes: reasoning, content, tool calls.

It serves every family; `reply_formats` declares how they write. Text that is not well-formed stays content,
its marks included, unless it is streamed: then a call that has begun stays a call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coterie.text.call_readers import arguments_text, call_of, read_calls, read_cut
from coterie.text.call_streams import CallStream, Piece
from coterie.text.marks import first_mark, num_held
from coterie.text.messages import Message, ToolCall, long_id
from coterie.text.reply_formats import Region, ReplyFormat, format_of
from coterie.text.stop_strings import StopStrings

_PEEK = 200  # characters within which `while` decides
_UNMISTAKABLE = 5  # characters of a mark that are no chance


@dataclass(frozen=True)
class CallPart:
    """New text of a call's arguments. `index`: as of the call; its first part has its id and name.

    `custom`: the text is the input of a custom tool.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str
    custom: bool = False


@dataclass(frozen=True)
class NumberedCall:
    """A tool call of one reply: its place among the reply's calls, an id for its result, and the call.

    `arguments`: their text, which is that of the call's parts together: the model's own where it writes JSON.
    `broken`: the text is not a JSON object, because the call was cut off or is not well-formed; `call` then
    has no arguments. `custom`: the text is the input of a custom tool.
    """

    index: int
    id: str
    call: ToolCall
    arguments: str
    broken: bool = False
    custom: bool = False


@dataclass
class Delta:
    """What the last text made certain: text to append, parts of calls, and the calls that are complete."""

    reasoning: str = ""
    content: str = ""
    parts: list[CallPart] = field(default_factory=list)
    calls: list[NumberedCall] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content or self.parts or self.calls)

    def add(self, later: Delta) -> None:
        """Append the text and the calls of a later delta of the same reply."""
        self.reasoning += later.reasoning
        self.content += later.content
        self.parts += later.parts
        self.calls += later.calls

    def in_order(self, inside: bool) -> Iterator[tuple[str, Any]]:
        """What is new in the order in which it was written: ("reasoning" or "content", text), ("call", pair).

        A pair is one of `written`. `inside`: a call has begun, which words can only follow.
        """
        calls = [("call", pair) for pair in self.written()]
        words = [("reasoning", self.reasoning), ("content", self.content)]
        words = [(kind, text) for kind, text in words if text]
        yield from [*calls, *words] if inside else [*words, *calls]

    def written(self) -> Iterator[tuple[CallPart | None, NumberedCall | None]]:
        """The parts of calls in order, each with the call that it ends; None for a call that ends without."""
        ended = {numbered.index: numbered for numbered in self.calls}
        last = {part.index: place for place, part in enumerate(self.parts)}
        for place, part in enumerate(self.parts):
            yield part, ended.pop(part.index, None) if last[part.index] == place else None
        for numbered in ended.values():
            yield None, numbered


class ReplyParser:
    """Parses a reply from pieces of its text; how it is cut does not matter.

    `opened`: the prompt ended inside a reasoning block. `tools`: whether calls are parsed or stay text.
    `new_id` makes the ids of calls. `stops`: texts that end the reply where they occur in its content,
    without the white space before it; reasoning and calls may contain them. `stopped`: whether one has.
    `include_stop`: the stop stays in the content.
    `streamed`: calls are given as they are written. A call that has begun then stays one, even if it turns
    out not to be well-formed, and what is cut off is a call as far as it was written, never its marks.
    """

    def __init__(
        self,
        form: ReplyFormat | None = None,
        opened: bool = False,
        tools: bool = True,
        new_id: Callable[[], str] = long_id,
        stops: Sequence[str] = (),
        include_stop: bool = False,
        streamed: bool = False,
    ) -> None:
        form = form or format_of(None)
        regions = form.regions
        self._regions = tuple(region for region in regions if tools or region.kind != "calls")
        self._tools, self._new_id = tools, new_id
        self._region = form.reasoning if opened else None
        self._mark = ""  # that opened the region
        self._part = "reasoning"  # where text of the region goes; "" while its head is read
        self._streamed = streamed
        self._stream: CallStream | None = None  # of a region of calls
        self._fed = 0  # characters of the text that it has
        self._written = ["", "", ""]  # id, name and arguments of the call that is being written
        self._cut = False
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
        return self._region is not None and self._part == "reasoning"

    def arm(self, armed: bool) -> None:
        """Set whether `stops` count in the text that follows."""
        self._stops.armed = armed

    def feed(self, text: str) -> Delta:
        """Take in the next text of the reply; returns what it made certain."""
        self._text += text
        return self._run(last=False)

    def finish(self) -> Message:
        """The whole message, after the last text, without calls that are broken.

        A mark that was never completed is text.
        """
        self.flush()
        whole = self._whole
        sound = [numbered for numbered in whole.calls if not numbered.broken]
        calls = tuple(replace(numbered.call, id=numbered.id) for numbered in sound)
        return Message("assistant", whole.content, whole.reasoning if self._thought else None, calls)

    def flush(self, cut: bool = False) -> Delta:
        """Take the end of the reply; returns what was held back. `cut`: the model had not ended it."""
        self._cut = cut and self._streamed
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
        if self._part == "":
            return self._head(new, region, last)
        if self._part.startswith("to="):
            return self._calls(new, region, last)
        self._thought = self._thought or self._part == "reasoning"
        mark = self._up_to(new, self._part, region.close)
        if mark:
            self._text = self._text[len(mark) :]
            self._leave()
        elif last:
            self._add(new, self._part, self._text)
            self._text = ""
        return bool(mark)

    def _up_to(self, new: Delta, part: str, marks: tuple[str, ...]) -> str:
        """Add text up to the first mark, or to what may be the beginning of one. Returns the mark, or ""."""
        at, mark = first_mark(self._text, marks)
        end = at if mark else len(self._text) - num_held(self._text, marks)
        self._add(new, part, self._text[:end])
        self._text = self._text[end:]
        return mark

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
        mark = self._up_to(new, "content", marks)
        if mark:
            return self._enter(next(r for r in anywhere if mark in r.open), mark, self._text)
        if last:
            if not (self._cut and len(self._text) >= _UNMISTAKABLE):
                self._add(new, "content", self._text)
            self._text = ""
        return False

    def _enter(self, region: Region, mark: str, text: str) -> bool:
        self._region, self._mark = region, "" if region.keep else mark
        self._text = text if region.keep else text[len(mark) :]
        self._part = {"message": "", "calls": "to="}.get(region.kind, "reasoning")
        if region.kind == "calls":
            self._begin_calls(region)
        return True

    def _leave(self) -> None:
        if self._region is not None and self._region.kind == "message" and self._part in self._space:
            self._space[self._part] += "\n"  # a further message of the same kind begins on a new line
        self._region, self._mark = None, ""

    def _head(self, new: Delta, region: Region, last: bool) -> bool:
        """The head of a message, up to its mark: it names the channel or the receiver."""
        head, found, rest = self._text.partition(region.head_end)
        if not found:
            if last and self._cut and (self._mark or "to=functions." in head):
                self._text = ""
                self._leave()
            elif last:
                self._stays(new, self._mark + self._text, "")
            return last
        receiver = re.search(r"\bto=(?:functions\.)?([\w.-]+)", head)
        self._mark += head + found
        self._text = rest
        thinks = re.search(r"\banalysis\b", head) is not None
        self._part = f"to={receiver[1]}" if receiver and self._tools else "reasoning" if thinks else "content"
        self._begin_calls(region)
        return True

    def _begin_calls(self, region: Region) -> None:
        """At the beginning of a region of calls: read them as they are written, if they are streamed."""
        ways = region.read
        self._stream, self._fed = None, 0
        if self._streamed and self._part.startswith("to=") and CallStream.reads(ways):
            again = () if region.keep or region.kind == "message" else region.open
            self._stream = CallStream(ways, self._part.removeprefix("to="), region.close, again)

    def _calls(self, new: Delta, region: Region, last: bool) -> bool:
        """The inside of a region of calls: read as it is written, parsed as a whole, or left as text."""
        if self._stream is not None and self._stream.begun:
            return self._goes_on(new, region, self._stream, last)
        if region.viable and not re.fullmatch(region.viable, self._text[:_PEEK], re.DOTALL):
            self._stays(new, self._text[:1], self._text[1:])
            return True
        if self._stream is not None:
            return self._goes_on(new, region, self._stream, last)
        return self._whole_region(new, region, last)

    def _goes_on(self, new: Delta, region: Region, stream: CallStream, last: bool) -> bool:
        """Calls that are read as they are written; the text is kept until one has begun."""
        for piece in stream.feed(self._text[self._fed :], last):
            self._piece(new, piece)
        self._fed = len(self._text)
        if stream.begun:
            self._text, self._fed = "", 0
        if stream.failed:
            self._stream = None
            bare = region.keep and region.kind == "calls"  # its text may as well be an answer
            if stream.cut and self._cut and not bare:
                if stream.name:
                    self._piece(new, Piece("", True, stream.name))
                self._text = ""
                self._leave()
            return True
        if not stream.over:
            return False
        self._text = "" if stream.cut and self._cut else stream.rest
        if stream.closed or not region.close:
            self._leave()
        else:
            self._part = "content"  # words between the calls and the mark
        return True

    def _whole_region(self, new: Delta, region: Region, last: bool) -> bool:
        at, mark = first_mark(self._text, region.close)
        if not mark:
            if not last:
                return False
            at = len(self._text)
        inside, rest = self._text[:at], self._text[at + len(mark) :]
        calls = read_calls(self._part, region.read, inside) if mark or region.ends else []
        begun = read_cut(region.read, inside) if self._cut and not mark and not calls else None
        for call in calls:
            self._piece(new, Piece(arguments_text(call), True, call.name, call.id), call)
        for call, complete in begun or ():
            text = arguments_text(call)
            self._piece(new, Piece(text if complete else text[:-1], True, call.name))
        if calls or begun or (begun is not None and not region.keep):
            self._text = rest
            self._leave()
            return True
        self._stays(new, self._mark + inside + mark, rest)
        return True

    def _piece(self, new: Delta, piece: Piece, call: ToolCall | None = None) -> None:
        """Add what was written of a call; `call`: the whole one, if it is known."""
        index, first = len(self._whole.calls), piece.name is not None
        if piece.name is not None:
            self._written = [self._id_of(piece.id), piece.name, ""]
        id, name, _ = self._written
        self._written[2] += piece.arguments
        if first or piece.arguments:
            part = CallPart(index, id, name, piece.arguments)
            new.parts.append(part if first else replace(part, id=None, name=None))
        if piece.ended:
            text = self._written[2]
            call = call or call_of(name, text)
            numbered = NumberedCall(index, id, call or ToolCall(name, {}), text, call is None)
            new.calls.append(numbered)
            self._whole.calls.append(numbered)

    def _id_of(self, given: str | None) -> str:
        """The id that the model wrote, unless it is odd or the reply has it already; else a new one."""
        taken = {numbered.id for numbered in self._whole.calls}
        written = given or ""
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
        at, end = first_mark(text, thought.close if thought else ())
        opened = bool(thought and end and first_mark(text[:at], thought.open)[1] == "")
    parser = ReplyParser(form, opened)
    parser.feed(text)
    return parser.finish()
