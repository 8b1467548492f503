"""Options of a verb made from the fields of a settings object, so that a default is stated once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from coterie.config import Settings


def with_options(
    settings: type[Settings],
    leave_out: Collection[str] = (),
    into: str = "settings",
    sections: Mapping[str, Collection[str]] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a verb: its parameter `into` becomes one option for each field of `settings` but `leave_out`.

    An option takes its help from the field's description and its default and bounds (`ge`, `le`) from the
    field. A tuple becomes an option that may be given several times, named in the singular; a `Literal`
    becomes a choice. `sections`: a section of the help and the fields in it. The verb receives the validated
    object. Errors of the values: `ConfigError`, as `Settings.from_dict` raises it.
    """
    section_of = {name: title for title, names in (sections or {}).items() for name in names}
    assert section_of.keys() <= settings.model_fields.keys(), "a section names an unknown field"
    fields = {name: field for name, field in settings.model_fields.items() if name not in leave_out}

    def decorate(verb: Callable[..., Any]) -> Callable[..., Any]:
        given = inspect.signature(verb, eval_str=True)

        @functools.wraps(verb)
        def wrapper(**values: Any) -> Any:
            chosen = {name: _value(field, values.pop(name)) for name, field in fields.items()}
            return verb(**values, **{into: settings.from_dict(chosen, where=verb.__name__)})

        kept = [parameter for parameter in given.parameters.values() if parameter.name != into]
        made = [_parameter(name, field, section_of.get(name)) for name, field in fields.items()]
        return with_parameters(wrapper, [*kept, *made])

    return decorate


def with_parameters(
    function: Callable[..., Any], parameters: Iterable[inspect.Parameter]
) -> Callable[..., Any]:
    """Let typer see `parameters`, as keywords, in place of those of a function that takes `**values`."""
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    function.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword}
    # Typer would follow a wrapper back to the function that it wraps and read its parameters.
    function.__dict__.pop("__wrapped__", None)
    return function


def _parameter(name: str, field: FieldInfo, section: str | None) -> inspect.Parameter:
    """The keyword parameter from which typer makes one option."""
    assert field.description, f"{name}: an option needs a description"
    bounds: Mapping[str, Any] = {
        side: getattr(item, key)
        for item in field.metadata
        for key, side in (("ge", "min"), ("le", "max"))
        if hasattr(item, key)
    }
    kind, optional = _without_none(field.annotation)
    default = field.default
    declared: list[str] = []
    if get_origin(kind) is tuple:
        declared, default = [f"--{name.removesuffix('s').replace('_', '-')}"], None
        item = get_args(kind)[0]  # a checked type (`Annotated`) is its plain type to typer
        kind, optional = GenericAlias(list, (getattr(item, "__origin__", item),)), True
    elif kind is Path:
        kind = str  # typer would show its own words for paths in the help
    option = typer.Option(*declared, help=field.description, rich_help_panel=section, **bounds)
    annotation: Any = Annotated[kind | None if optional else kind, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """The type of a field without `None`, and whether it may be None."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation, False
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    assert len(kinds) == 1, f"{annotation}: an option has one type"
    return kinds[0], True


def _value(field: FieldInfo, given: Any) -> Any:
    """What typer parsed, as the field takes it: an option that was never given is an empty tuple."""
    return tuple(given or ()) if get_origin(field.annotation) is tuple else given
