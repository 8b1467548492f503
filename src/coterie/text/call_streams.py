"""Calls of tools read while they are written, for families that write arguments as JSON.

A call is certain once its name is complete and the object of its arguments has opened. From then on the text
of the arguments is handed out as the model writes it. It ends where the object ends; an object that never
does goes on to the next mark of the format, or to the end of the reply.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from coterie.text.printable import joined

_Wait = Generator[None, None, None]  # a reader stops where it needs more text
_WaitForText = Generator[None, None, str]
_Take = Callable[[str], None]
_LONGEST_NAME = 200  # characters before `[ARGS]` or its like; more of them are no name
# How families write names before arguments: the mark between them, and marks around calls.
_SEPARATED = {
    "args": ("[ARGS]", ()),
    "sep": ("<｜tool▁sep｜>", ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>")),
}
_SPACE = re.compile(r"\s*")
_BETWEEN = re.compile(r"[\s;,`\]}]*")  # a bracket too many after a call is not text
_FENCE = re.compile(r"[`json\s]*")
_LINE = re.compile(r"[^\n{`]*")
_SCALAR = re.compile(r"[^\s,\]}]*")
_CLEAN = re.compile(r'[^"\\\x00-\x1f]*')  # inside a string of JSON
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True)
class Piece:
    """What new text added to a call. `name` and `id` (as written, or None) are set on its first piece."""

    arguments: str
    ended: bool
    name: str | None = None
    id: str | None = None


class _Stop(Exception):
    """Why no call goes on here: `mark` (a mark is here), `end` (of the reply), or `other` text."""


class CallStream:
    """Reads the inside of one region of calls from pieces of its text.

    `ways`: how calls may be written (`Region.read`). `name`: of the call whose arguments the region holds;
    "" where the region names its calls. `close`: marks that end the region; `open`: marks that open another.

    `begun`: whether a call is certain. `failed`: the text is no such call, found before one has begun.
    `over`: no further call follows; `closed`: because the region is closed or another opens. `cut`: the reply
    ended before either was known. `name`: of the call being read, once it is known.
    """

    def __init__(
        self, ways: tuple[str, ...], name: str, close: tuple[str, ...], open: tuple[str, ...]
    ) -> None:
        self.begun = self.failed = self.over = self.closed = self.cut = False
        self._ways, self._given = ways, name
        self._close, self._open = close, open
        self._inner = next((_SEPARATED[way][1] for way in ways if way in _SEPARATED), ())
        self._marks: tuple[str, ...] = (*close, *open, *self._inner)
        self._longest = max(map(len, self._marks), default=1)
        self._firsts = "".join({mark[0] for mark in self._marks})
        self._plain = re.compile(rf'[^"{{}}\[\]{re.escape(self._firsts)}]*')
        self._odd = re.compile(rf'[^"\\{re.escape(self._firsts)}]*')
        self._text, self._at, self._last = "", 0, False
        self._among = True  # whether the place is between calls
        self._certain = False  # whether a piece of this call has been handed out
        self._pieces: list[Piece] = []
        self._start_call()
        self._steps = self._run()

    @staticmethod
    def reads(ways: tuple[str, ...]) -> bool:
        """Whether calls that are written in one of these ways can be read while they are written."""
        return bool({"json", "bare", "named", *_SEPARATED} & {*ways})

    @property
    def rest(self) -> str:
        """The text that no call has used."""
        return self._text[self._start :]

    def feed(self, text: str, last: bool = False) -> list[Piece]:
        """What the next text adds. `last`: the reply ends with it."""
        self._text += text
        self._last, self._pieces = last, []
        if not self.over and not self.failed:
            next(self._steps, None)
            self._hand_out()
            if self._certain:
                self._text, self._at, self._start = self._text[self._at :], 0, 0
        return self._pieces

    def _start_call(self) -> None:
        self._start, self._certain = self._at, False
        self.name = self._given
        self._id: str | None = None
        self._new = ""  # text of the arguments that is not yet handed out
        # Whether the arguments have opened; the place is inside them; a string in them is not well-formed.
        self._opened = self._inside = self._loose = False

    def _hand_out(self, ended: bool = False) -> None:
        if not (self._opened and self.name and (self._new or ended)):
            return
        piece = Piece(self._new, ended)
        if not self._certain:
            piece = Piece(self._new, ended, self.name, self._id)
            self._certain = self.begun = True
        self._pieces.append(piece)
        self._new = ""

    def _end_call(self) -> None:
        self._hand_out(ended=True)
        self._start_call()

    def _run(self) -> _Wait:
        while True:
            try:
                yield from self._call()
            except _Stop as stop:
                if not self._goes_on(str(stop)):
                    return
            else:
                self._end_call()

    def _goes_on(self, why: str) -> bool:
        """End what is being read; whether another call may follow."""
        self.cut = why == "end"
        if self._opened and self.name:
            if self._inside and self.cut:
                self._take(self._text[self._at :])
            self._at = len(self._text) if self.cut else self._at
            self._end_call()
            if why == "mark" and self._here(self._inner) and not self._here(self._close):
                return True
            self._among = True
        if not self.begun:
            self.failed = True
            return False
        self.over = True
        if self._among:
            self.closed = why == "mark"
            self._at += len(self._here(self._close)) if self.closed else 0
            self._start = self._at
        return False

    # Reading; each step waits until it has the text that it needs.

    def _call(self) -> _Wait:
        """One call, and what is before it."""
        whole = next((way for way in self._ways if way in ("json", "bare")), "")
        separated = next((way for way in self._ways if way in _SEPARATED), "")
        char = yield from self._between(bool(whole))
        if "named" in self._ways:
            if self.begun:
                raise _Stop("other")
            yield from self._arguments(char)
        elif whole and char == "{":
            yield from self._members(False)
            if not self.name or (whole == "bare" and not self._opened):
                raise _Stop("other")
            if not self._opened:
                self._opened, self._new = True, "{}"
        elif separated:
            yield from self._separated(_SEPARATED[separated][0])
        else:
            raise _Stop("other")

    def _between(self, lists: bool) -> _WaitForText:
        """Pass over what separates calls; the character after it."""
        self._among = True
        while True:
            char = yield from self._skip(_BETWEEN if self.begun else _SPACE)
            mark = yield from self._mark()
            if mark and mark not in self._inner:
                raise _Stop("mark" if self.begun else "other")
            if not mark and not (lists and char == "["):
                self._start = self._at if self.begun else self._start
                self._among = False
                return char
            self._at += len(mark) or 1

    def _members(self, inner: bool) -> _Wait:
        """The members of the object of a call, or of its member `function`."""
        self._at += 1
        char = yield from self._skip(_SPACE)
        while char != "}":
            key = yield from self._string(char)
            yield from self._expect(":")
            char = yield from self._skip(_SPACE)
            if key == "function" and char == "{" and not inner:
                yield from self._members(True)
            elif key in ("arguments", "parameters") and not self._opened:
                yield from self._arguments(char)
            elif key == "name" and not self._certain:
                self.name = joined((yield from self._string(char)))
            else:
                yield from self._other(key)
            char = yield from self._skip(_SPACE)
            if char == "}":
                break
            yield from self._expect(",")
            char = yield from self._skip(_SPACE)
        self._at += 1

    def _other(self, key: str) -> _Wait:
        """A member's value that is neither name nor arguments."""
        found: list[str] = []
        yield from self._value(found.append)
        if key == "id" and not self._certain:
            id = _loaded("".join(found))
            self._id = str(id) if isinstance(id, str | int) else None

    def _separated(self, mark: str) -> _Wait:
        """NAME `mark` ARGUMENTS; DeepSeek also writes `function` `mark` NAME and fenced arguments."""
        while (found := self._text.find(mark, self._at)) < 0:
            if len(self._text) - self._at > _LONGEST_NAME:
                raise _Stop("other")
            yield from self._more(len(self._text) - self._at + 1)
        name = self._text[self._at : found].strip()
        self._at = found + len(mark)
        if name == "function":
            line: list[str] = []
            yield from self._skip(_LINE, line.append)
            name = "".join(line).strip() or name
        if not name or "\n" in name:
            raise _Stop("other")
        self.name = name
        yield from self._arguments((yield from self._skip(_FENCE)))

    def _arguments(self, char: str) -> _Wait:
        """The object of arguments, or a string that holds its text."""
        if char == "{":
            self._opened = self._inside = True
            yield from self._value(self._take)
            self._inside = False
        elif char == '"' and "named" not in self._ways:
            self._at += 1
            yield from self._in_string(self._take_escaped, 6)
            if not self._opened:
                raise _Stop("other")
        else:
            yield from self._expect("{")

    def _take(self, text: str) -> None:
        self._new += text

    def _take_escaped(self, text: str) -> None:
        """Take a part of a string: an escape, or text without one."""
        self._new += _unescaped(text) if text.startswith("\\") else text
        begin = self._new.lstrip()[:1]
        if not self._opened and begin not in ("", "{"):
            raise _Stop("other")
        self._opened = self._opened or bool(begin)

    def _value(self, take: _Take) -> _Wait:
        """One value of JSON; `take` gets its text."""
        depth = 0
        while True:
            if depth:
                yield from self._skip(self._plain, take)
            char = self._text[self._at]
            if char in self._firsts and (yield from self._mark()):
                raise _Stop("mark")
            if not depth and char not in '"{[':
                yield from self._skip(_SCALAR, take)
                return
            self._at += 1
            take(char)
            if char == '"':
                yield from self._in_string(take, 2)
                take(char)
            depth += (char in "{[") - (char in "}]")
            if not depth:
                return

    def _string(self, char: str) -> _WaitForText:
        """A string outside the arguments, its escapes resolved."""
        if char != '"':
            yield from self._expect('"')
        self._at += 1
        found: list[str] = []
        yield from self._in_string(found.append, 2)
        return str(_loaded('"' + "".join(found) + '"'))

    def _in_string(self, take: _Take, escape: int) -> _Wait:
        """A string behind its first quote, to behind its last; `escape`: the length of a `\\u` to be taken.

        Marks in arguments are text as long as their strings are well-formed.
        """
        while True:
            char = yield from self._skip(_CLEAN if self._opened and not self._loose else self._odd, take)
            if char == '"':
                self._at += 1
                return
            size = 1
            if char == "\\":
                yield from self._more(2)
                size = escape if self._text[self._at + 1] == "u" else 2
                yield from self._more(size)
            else:
                self._loose = self._loose or self._opened
                if (yield from self._mark()):
                    raise _Stop("mark")
            taken = self._text[self._at : self._at + size]
            self._at += size
            take(taken)

    def _expect(self, char: str) -> _Wait:
        """Pass over white space and this character."""
        found = yield from self._skip(_SPACE)
        if found != char:
            raise _Stop("mark" if (yield from self._mark()) else "other")
        self._at += 1

    def _mark(self) -> _WaitForText:
        """The longest mark that begins here, else ""."""
        while True:
            text = self._text[self._at : self._at + self._longest]
            perhaps = any(len(mark) > len(text) and mark.startswith(text) for mark in self._marks)
            if self._last or not perhaps:
                found = self._here(self._marks)
                if perhaps and not found and not self._inside:
                    raise _Stop("end")
                return found
            yield

    def _here(self, marks: tuple[str, ...]) -> str:
        return max((mark for mark in marks if self._text.startswith(mark, self._at)), key=len, default="")

    def _skip(self, pattern: re.Pattern[str], take: _Take | None = None) -> _WaitForText:
        """Pass over all that the pattern matches; the character behind it."""
        while True:
            found = pattern.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            if take is not None and found[0]:
                take(found[0])
            if self._at < len(self._text):
                return self._text[self._at]
            yield from self._more(1)

    def _more(self, count: int) -> _Wait:
        """Wait until that many characters follow."""
        while len(self._text) - self._at < count:
            if self._last:
                raise _Stop("end")
            yield


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise _Stop("other") from None


def _unescaped(escape: str) -> str:
    """What an escape in a string stands for; half of a surrogate pair stays an escape, as JSON text may."""
    if escape[1] != "u":
        return _ESCAPED.get(escape[1], escape[1])
    try:
        code = int(escape[2:], 16)
    except ValueError:
        return escape
    return escape if 0xD800 <= code < 0xE000 else chr(code)
