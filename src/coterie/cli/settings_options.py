"""Options of a verb made from the fields of a settings object, so that a default is stated once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from coterie.config import Settings


def with_options(
    settings: type[Settings], leave_out: Collection[str] = (), into: str = "settings"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a verb: its parameter `into` becomes one option for each field of `settings` but `leave_out`.

    An option takes its help from the field's description and its default and bounds (`ge`, `le`) from the
    field. A tuple becomes an option that may be given several times, named in the singular; a `Literal`
    becomes a choice. The verb receives the validated object. Errors of the values: `ConfigError`, as
    `Settings.from_dict` raises it.
    """
    fields = {name: field for name, field in settings.model_fields.items() if name not in leave_out}

    def decorate(verb: Callable[..., Any]) -> Callable[..., Any]:
        given = inspect.signature(verb, eval_str=True)

        @functools.wraps(verb)
        def wrapper(**values: Any) -> Any:
            chosen = {name: _value(field, values.pop(name)) for name, field in fields.items()}
            return verb(**values, **{into: settings.from_dict(chosen, where=verb.__name__)})

        kept = [parameter for parameter in given.parameters.values() if parameter.name != into]
        made = [_parameter(name, field) for name, field in fields.items()]
        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*kept, *made)]
        wrapper.__signature__ = given.replace(parameters=keyword)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword}
        # typer would otherwise follow the wrapper back to the verb and read its parameters
        del wrapper.__wrapped__  # type: ignore[attr-defined]
        return wrapper

    return decorate


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
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
        kind, optional = GenericAlias(list, get_args(kind)[:1]), True
    elif kind is Path:
        kind = str  # typer would show its own words for paths in the help
    option = typer.Option(*declared, help=field.description, **bounds)
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
