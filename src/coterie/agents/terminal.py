"""Chat in the terminal: lines in, streamed replies out, commands that begin with a slash."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from coterie.agents.speaker import Kind, Sampling, Speaker, Turn, note_ignored, turn_lines
from coterie.agents.transcript import read_conversation, write_row
from coterie.config.errors import CoterieError
from coterie.reasoning.effort import EFFORTS
from coterie.text.chat import Message
from coterie.text.printable import printable, shown

HELP = """/system [TEXT]  set the system message; without text, show it
/temp [NUMBER]  set the temperature: 0 always takes the most likely token
/effort [WORD]  how much to reason: none, minimal, low, medium, high, xhigh or max
/save FILE      write the conversation as one line of JSON: tuning data as it is
/load FILE      continue a saved conversation
/retry          another answer to your last message
/undo           take back your last message and its answer
/help           this list
//TEXT          a message that begins with a slash
Ctrl-C stops an answer; an empty line or Ctrl-D ends."""


class Terminal:
    """A conversation with a model.

    `interactive`: show prompts and speeds (on standard error) and obey commands. Otherwise, for a pipe, every
    line is a message and only answers are printed.
    """

    def __init__(
        self,
        speaker: Speaker,
        system: str | None,
        sampling: Sampling,
        interactive: bool,
        colour: bool | None = None,
    ) -> None:
        self.speaker = speaker
        self.sampling = sampling
        self.interactive = interactive
        self.messages: list[Message] = [Message("system", system)] if system else []
        if colour is None:
            colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._dim, self._plain = ("\033[2m", "\033[0m") if colour else ("", "")
        self._commands: dict[str, Callable[[str], None]] = {
            "system": self._system,
            "temp": self._temp,
            "effort": self._effort,
            "save": self._save,
            "load": self._load,
            "retry": self._retry,
            "undo": self._undo,
            "help": lambda _: _note(HELP),
        }

    def run(self) -> None:
        """Ask and answer until an empty line, the end of input, or Ctrl-C twice at the prompt.

        Errors: `CoterieError` from a pipe; at a terminal it is shown, and the conversation continues.
        """
        if self.interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - lines can be edited and recalled
        interrupted = False
        while True:
            try:
                line = input("> " if self.interactive else "").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                if interrupted or not self.interactive:
                    raise
                interrupted = True
                _note("\n(an empty line or Ctrl-D ends; Ctrl-C again too)")
                continue
            interrupted = False
            if not line:
                return
            try:
                self.take(line)
            except CoterieError as error:
                if not self.interactive:
                    raise
                _note(printable(f"coterie: {error}"))

    def take(self, line: str) -> None:
        """Obey one line: a command if it begins with a slash and a person typed it, else a message."""
        if self.interactive and line.startswith("//"):
            line = line[1:]
        elif self.interactive and line.startswith("/"):
            name, _, rest = line[1:].partition(" ")
            command = self._commands.get(name)
            if command is None:
                raise CoterieError(
                    f"/{name}: no such command; /help lists them, and //{name} sends it as text"
                )
            command(rest.strip())
            return
        self._answer([*self.messages, Message("user", line)])

    def _answer(self, messages: list[Message]) -> None:
        """Add a reply to a conversation; if Ctrl-C stops it, the part that came is the reply."""
        said: dict[Kind, list[str]] = {"text": [], "reasoning": []}

        def show(kind: Kind, piece: str) -> None:
            said[kind].append(piece)
            piece = printable(piece) if self.interactive else shown(piece)
            if kind == "text":
                sys.stdout.write(
                    ("\n" if said["reasoning"] and len(said["text"]) == 1 and self.interactive else "")
                    + piece
                )
            elif self.interactive:
                sys.stdout.write(f"{self._dim}{piece}{self._plain}")
            sys.stdout.flush()

        try:
            turn = self.speaker.say(messages, sampling=self.sampling, on_piece=show)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            text, reasoning = "".join(said["text"]), "".join(said["reasoning"]) or None
            if text or reasoning:
                self.messages = [*messages, Message("assistant", text, reasoning)]
            _note("\n(stopped)")
            return
        print()
        note_ignored(turn)
        for line in turn_lines(turn) if self.interactive else ():
            _note(f"{self._dim}{line}{self._plain}")
        self.messages = [*messages, turn.message]
        for call in turn.message.tool_calls:
            arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
            print(f"{self._dim}{shown(f'[tool call] {call.name}({arguments})')}{self._plain}")
        if self.interactive:
            _note(f"{self._dim}{_speed(turn)}{self._plain}")

    def _system(self, text: str) -> None:
        rest = [m for m in self.messages if m.role != "system"]
        current = [m for m in self.messages if m.role == "system"]
        if not text:
            _note(printable(current[0].text) if current else "(no system message)")
            return
        self.messages = [Message("system", text), *rest]

    def _temp(self, text: str) -> None:
        if not text:
            now = self.sampling.temperature
            _note("the model's temperature" if now is None else f"temperature {now}")
            return
        try:
            value = float(text)
        except ValueError:
            raise CoterieError(f"/temp {text}: give a number, 0 or more") from None
        if not 0 <= value < float("inf"):
            raise CoterieError(f"/temp {text}: give a number, 0 or more")
        self.sampling = replace(self.sampling, temperature=value)

    def _effort(self, text: str) -> None:
        if not text:
            _note(self.sampling.effort or "as the model does")
            return
        if text not in EFFORTS:
            raise CoterieError(f"/effort {text}: choose one of {', '.join(EFFORTS)}")
        self.sampling = replace(self.sampling, effort=text, think_budget=None)

    def _save(self, text: str) -> None:
        if not text:
            raise CoterieError("/save: give the name of a file")
        write_row(Path(text), {"messages": [message.to_dict() for message in self.messages]})
        _note(f"{text}: {len(self.messages)} messages")

    def _load(self, text: str) -> None:
        if not text:
            raise CoterieError("/load: give the name of a file")
        self.messages = list(read_conversation(Path(text))[0])
        _note(f"{text}: {len(self.messages)} messages")

    def _retry(self, text: str) -> None:
        self._answer(self.messages[: self._last_question("/retry") + 1])

    def _undo(self, text: str) -> None:
        self.messages = self.messages[: self._last_question("/undo")]

    def _last_question(self, command: str) -> int:
        places = [index for index, message in enumerate(self.messages) if message.role == "user"]
        if not places:
            raise CoterieError(f"{command}: you have not said anything yet")
        return places[-1]


def _speed(turn: Turn) -> str:
    speed = turn.tokens_per_second
    parts = [
        f"{turn.completion_tokens} tokens" if turn.completion_tokens is not None else "tokens not reported"
    ]
    parts += [f"{turn.reasoning_tokens} of them reasoning"] if turn.reasoning_tokens else []
    parts += [f"first after {turn.first_seconds:.2f} s"]
    parts += [f"{speed:.1f} tokens/s"] if speed is not None else []
    parts += ["cut off by the longest reply allowed"] if turn.finish_reason == "length" else []
    return f"({', '.join(parts)})"


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
