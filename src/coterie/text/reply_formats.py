"""How each family writes reasoning, calls and answers, read from `templates/NAME.reply.json`.

A format is a list of regions, each with the marks that open and close it:

`kind`: `reasoning`, `calls`, or `message` (a head such as `analysis to=functions.f` says which of the two, or
content). `open`, `close`: marks; no `close` means the end of the reply. `ends`: the end of the reply closes
it as well. `at_start`: only before any content. `keep`: the opening mark is part of what is read. `while`: a
pattern, true of every beginning of a call, without which the mark is text. `read`: how calls are written,
tried in turn (`replies._READERS`). `writing` says how a reply is written that must be a call or an answer
(see `Writing`).
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Region:
    """A part of a reply between two marks; see the module's description."""

    kind: str
    open: tuple[str, ...]
    close: tuple[str, ...] = ()
    ends: bool = False
    at_start: bool = False
    keep: bool = False
    viable: str = ""
    read: tuple[str, ...] = ()
    head_end: str = ""


@dataclass(frozen=True)
class Writing:
    """The form of calls and answers, for replies that a grammar constrains.

    `call`: one call, with `{object}` (its name and, under the key `arguments`, its arguments) or `{name}` and
    `{arguments}` in it. `open`, `between`, `close`: around and between calls; `between` None: a reply has one
    call. `trigger`: the text after which a free reply goes on with a call; "": a call can only begin the
    reply, or its last message. `thought`, `preamble`: the texts around reasoning, and around words to
    the user before calls, which are separate messages; `answer`: before an answer.
    """

    call: str
    arguments: str = "arguments"
    open: str = ""
    between: str | None = None
    close: str = ""
    trigger: str = ""
    thought: tuple[str, str] | None = None
    preamble: tuple[str, str] | None = None
    answer: str = ""


@dataclass(frozen=True)
class ReplyFormat:
    """How one family writes. `recognise`: a template that contains one of these texts belongs to it."""

    name: str
    recognise: tuple[str, ...]
    writing: Writing
    regions: tuple[Region, ...]

    @property
    def reasoning(self) -> Region | None:
        """The region of reasoning, if the family has one."""
        return next((region for region in self.regions if region.kind == "reasoning"), None)

    def opened_by(self, prompt: str) -> bool:
        """Whether a prompt that ends with this text has begun the reasoning of the reply."""
        region = self.reasoning
        return region is not None and prompt.rstrip().endswith(region.open)

    @property
    def thinking(self) -> tuple[str, str]:
        """The texts before and after reasoning."""
        region = self.reasoning
        return self.writing.thought or ((region.open[0], region.close[0]) if region else ("", ""))


@functools.cache
def formats() -> dict[str, ReplyFormat]:
    """Every declared format by name; the one that recognises everything comes last."""
    found = [_load(path) for path in sorted(TEMPLATES.glob("*.reply.json"))]
    return {form.name: form for form in sorted(found, key=lambda form: not form.recognise)}


def format_of(template: str | None) -> ReplyFormat:
    """The format of a chat template, recognised by its marks; by default that of Hermes and Qwen."""
    marks = template or ""
    return next(
        form for form in formats().values() if not form.recognise or any(m in marks for m in form.recognise)
    )


def _load(path: Path) -> ReplyFormat:
    data = json.loads(path.read_text(encoding="utf-8"))
    regions = [
        Region(
            kind=one["kind"],
            open=tuple(one["open"]),
            close=tuple(one.get("close", ())),
            ends=one.get("ends", not one.get("close")),
            at_start=one.get("at_start", False),
            keep=one.get("keep", False),
            viable=one.get("while", ""),
            read=tuple(one.get("read", ())),
            head_end=one.get("head_end", ""),
        )
        for one in data["regions"]
    ]
    written: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in data["writing"].items()
    }
    name = path.name.removesuffix(".reply.json")
    return ReplyFormat(name, tuple(data["recognise"]), Writing(**written), tuple(regions))
