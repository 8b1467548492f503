"""Where the chat templates of a directory come from, and which of several is used.

As transformers does it: `chat_template.jinja` and `additional_chat_templates/*.jinja` go before the
`chat_template` of `tokenizer_config.json`, which is a text or a list of named ones. `chat_template.json`,
which processors of multimodal models have, counts where there is no other. The template `tool_use` is used
for conversations with tools, `default` for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.config.errors import DataError
from coterie.config.files import present, read_json, write_text
from coterie.text.rendering import shipped_names, shipped_template

DEFAULT, TOOL_USE = "default", "tool_use"
FILE, FOLDER = "chat_template.jinja", "additional_chat_templates"
_PROCESSORS = "chat_template.json"
_CONFIG = "tokenizer_config.json"
_MAX_BYTES = 4_000_000  # of a file; no published template has a tenth


class ChatTemplate(str):
    """The source of a chat template. `origin`: the file that it came from, which errors name."""

    origin: str

    def __new__(cls, text: str, origin: str = "") -> ChatTemplate:
        template = super().__new__(cls, text)
        template.origin = origin
        return template


@dataclass(frozen=True)
class ChatTemplates:
    """The chat templates of a tokenizer by name. `notes`: files that contradict each other, one line each."""

    named: Mapping[str, ChatTemplate] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(text: str | None) -> ChatTemplates:
        """One template for everything, or none."""
        if text is None:
            return ChatTemplates()
        return ChatTemplates({DEFAULT: text if isinstance(text, ChatTemplate) else ChatTemplate(text)})

    @property
    def default(self) -> ChatTemplate | None:
        """The template for conversations without tools."""
        return self.named.get(DEFAULT)

    @property
    def for_calls(self) -> ChatTemplate | None:
        """The template for conversations with tools, if there is one."""
        return self.named.get(TOOL_USE, self.default)

    def choose(self, tools: bool) -> ChatTemplate:
        """The template for a conversation with or without tools, as transformers chooses it.

        Errors: `DataError` when there is none for it.
        """
        found = self.for_calls if tools else self.default
        if found is None and self.named:
            raise DataError(
                f"chat template: there is no '{DEFAULT}' one, only {', '.join(sorted(self.named))}; "
                f"save one as {FILE}, or give one with --template"
            )
        if found is None:
            raise DataError(
                f"this tokenizer has no chat template; save a {FILE} in its directory, or give one with "
                f"--template (a file, or one of {', '.join(shipped_names())})"
            )
        return found


def read_templates(directory: Path, inline: Any) -> ChatTemplates:
    """The chat templates of a directory. `inline`: what its tokenizer_config.json has as `chat_template`.

    Errors: `DataError`, naming the file, for one that cannot be read or holds something else.
    """
    files: dict[str, ChatTemplate] = {}
    if present(directory / FILE, DataError):
        files[DEFAULT] = _read(directory / FILE, FILE)
    for path in sorted((directory / FOLDER).glob("*.jinja")):
        files[path.name.removesuffix(".jinja")] = _read(path, f"{FOLDER}/{path.name}")
    configured = _of_json(inline, _CONFIG)
    processors: dict[str, ChatTemplate] = {}
    if present(directory / _PROCESSORS, DataError):
        content = read_json(directory / _PROCESSORS, error=DataError)
        processors = _of_json(content.get("chat_template"), _PROCESSORS)
    used, *others = [found for found in (files, configured, processors) if found] or [{}]
    notes = [note for other in others for note in _contradictions(used, other)]
    return ChatTemplates(used, tuple(notes))


def stored_templates(directory: Path) -> ChatTemplates:
    """The chat templates in a directory that may hold nothing else of a tokenizer. Errors: `DataError`."""
    config = directory / _CONFIG
    content = read_json(config, error=DataError) if present(config, DataError) else {}
    return read_templates(directory, content.get("chat_template"))


def write_templates(directory: Path, templates: ChatTemplates) -> None:
    """Write the templates as transformers does: the default one, and a folder of the others."""
    for name, text in templates.named.items():
        if name == DEFAULT:
            write_text(directory / FILE, text)
        else:
            (directory / FOLDER).mkdir(exist_ok=True)
            write_text(directory / FOLDER / f"{name}.jinja", text)


def template_from(option: str) -> ChatTemplate:
    """The template that `--template` names: a file, or a shipped one.

    Errors: `DataError` with the names of the shipped ones.
    """
    path = Path(option).expanduser()
    if path.is_file():
        return _read(path, path.name)
    try:
        return ChatTemplate(shipped_template(option), f"the shipped '{option}'")
    except DataError:
        known = ", ".join(shipped_names())
        raise DataError(f"--template {option}: is neither a file nor a shipped template ({known})") from None


def _read(path: Path, origin: str) -> ChatTemplate:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path}: is larger than {_MAX_BYTES:,} bytes, so it is no chat template")
        return ChatTemplate(path.read_text(encoding="utf-8"), origin)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({' '.join(str(error).split())})") from None


def _of_json(value: Any, origin: str) -> dict[str, ChatTemplate]:
    """The templates in a JSON value: a text, a list of {"name", "template"}, or an object by name."""
    if isinstance(value, str):
        return {DEFAULT: ChatTemplate(value, origin)}
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        value = {str(one.get("name")): one.get("template") for one in value}
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise DataError(
            f"{origin}: chat_template is neither a text nor a list of objects with 'name' and 'template'"
        )
    for name in value:
        if not re.fullmatch(r"[\w][\w.-]{0,99}", name):
            raise DataError(f"{origin}: chat_template: the name {name[:100]!r} cannot be that of a file")
    return {
        name: ChatTemplate(text, origin if name == DEFAULT else f"'{name}' of {origin}")
        for name, text in value.items()
    }


def _contradictions(used: Mapping[str, ChatTemplate], other: Mapping[str, ChatTemplate]) -> list[str]:
    """A line for each template of `other` that is not used and differs from the one that is."""
    notes = []
    for name, text in other.items():
        instead = used.get(name)
        if instead is None:
            there = ", ".join(template.origin for template in used.values())
            notes.append(
                f"chat template '{name}' in {text.origin} is not used, because {there} goes before it"
            )
        elif instead.strip() != text.strip():
            notes.append(f"chat template in {text.origin} differs from {instead.origin}, which is used")
    return notes
