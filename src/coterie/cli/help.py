"""The command group behind `coterie`: verbs are imported when they are named, and help has sections.

Typer groups options only when rich draws the help, as boxes as wide as the terminal. Plain text is easier to
read in a pipe and on the page of commands, so these classes add the sections to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

OPTIONS, COMMANDS = "Options", "Commands"


@dataclass(frozen=True)
class Verb:
    """Where a verb is and how the overview describes it.

    `place`: `module:function` below `coterie.cli`. `inner`: of a group of verbs, the verbs in it by name.
    `default`: the verb of a group that is meant where the first word names none of them.
    """

    short: str
    place: str = ""
    inner: Mapping[str, Verb] | None = None
    section: str = COMMANDS
    default: str | None = None


class GroupedCommand(TyperCommand):
    """A command whose help lists its options in the sections that `rich_help_panel` names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of arguments and options."""
        _write_parameters(self, ctx, formatter)


class LazyGroup(TyperGroup):
    """A group of verbs from a table; a verb's module is imported only when the verb is named.

    So `coterie --help` imports no verb, and a verb that builds its options from settings may import those.
    """

    verbs: ClassVar[Mapping[str, Verb]] = {}
    default: ClassVar[str | None] = None

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """As typer's, with the name of the default verb put before words that begin with no verb."""
        if self.default is not None and args and args[0] not in {*self.verbs, *ctx.help_option_names}:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the verbs, in the order of the table."""
        return list(self.verbs)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb of that name, imported now; None for an unknown one."""
        if cmd_name in self.verbs and cmd_name not in self.commands:
            self.commands[cmd_name] = _build(cmd_name, self.verbs[cmd_name])
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer's, which suggests a close name from `commands`: those are complete only here."""
        if args and args[0] not in self.verbs:
            for name in self.verbs:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the verbs in their sections."""
        _write_parameters(self, ctx, formatter)
        rows = ((verb.section, (name, verb.short)) for name, verb in self.verbs.items())
        _write_sections(formatter, rows, COMMANDS)


def group(
    verbs: Mapping[str, Verb], help_text: str, default: str | None = None, **settings: Any
) -> typer.Typer:
    """A typer application of these verbs."""
    cls = type("VerbGroup", (LazyGroup,), {"verbs": verbs, "default": default})
    application = typer.Typer(
        cls=cls,
        help=help_text,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )
    return application


def _build(name: str, verb: Verb) -> Any:
    if verb.inner is not None:
        application = group(verb.inner, verb.short, verb.default, add_completion=False)
        application.callback()(lambda: None)  # without one, typer makes no group
    else:
        module, _, function = verb.place.partition(":")
        application = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        target = getattr(importlib.import_module(f"coterie.cli.{module}"), function)
        application.command(name, cls=GroupedCommand, short_help=verb.short)(target)
    command = get_command(application)
    command.name = name
    return command


def _write_parameters(command: Any, context: Any, formatter: Any) -> None:
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            argument = parameter.param_type_name == "argument"
            section = getattr(parameter, "rich_help_panel", None) or OPTIONS
            rows.append(("Arguments" if argument else section, record))
    _write_sections(formatter, rows, OPTIONS)


def _write_sections(formatter: Any, rows: Iterable[tuple[str, tuple[str, str]]], last: str) -> None:
    """Write `(section, row)` pairs by section, in order of first appearance, with `last` at the end."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for section, row in rows:
        sections.setdefault(section, []).append(row)
    for section in sorted(sections, key=lambda title: title == last):
        with formatter.section(section):
            formatter.write_dl(sections[section])
