"""The kinds of tuning examples, as what every reader gives, whatever the format of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coterie.data.records import Origin
from coterie.text.chat import Message

Tools = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class ChatExample:
    """A conversation. `learn`: for each message whether it is learnt; None means the assistant's messages.

    `variables`: further names for the chat template. `unread`: fields of turns that no reader knows; they are
    used only if the template reads them.
    """

    messages: tuple[Message, ...]
    origin: Origin
    tools: Tools = ()
    learn: tuple[bool, ...] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairExample:
    """A plain-text prompt and its completion, without a chat template."""

    prompt: str
    completion: str
    origin: Origin


@dataclass(frozen=True)
class PreferenceExample:
    """Two continuations of one beginning (conversations or plain texts), of which `chosen` is the better one.

    `margin`: by how much it is better, if the data says so.
    """

    chosen: ChatExample | PairExample
    rejected: ChatExample | PairExample
    origin: Origin
    margin: float = 0.0


@dataclass(frozen=True)
class LabelledExample:
    """A continuation with a label that says whether it is wanted (for KTO)."""

    example: ChatExample | PairExample
    label: bool
    origin: Origin


@dataclass(frozen=True)
class TextExample:
    """Plain text, all of which is learnt."""

    text: str
    origin: Origin


@dataclass(frozen=True)
class PretokenisedExample:
    """An example given as token ids. Tokens whose label is -100 are not learnt."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    origin: Origin


Example = ChatExample | PairExample | PreferenceExample | LabelledExample | TextExample | PretokenisedExample
