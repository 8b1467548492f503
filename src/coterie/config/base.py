"""Strict settings objects: unknown keys are errors with a suggestion, dotted overrides, YAML in and out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from coterie.config.errors import ConfigError
from coterie.config.files import read_bytes, write_text
from coterie.config.yaml_text import SIZE, YamlError, parse_yaml


def suggest(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """` (did you mean 'x'?)` for the closest known name, or an empty string.

    `likeness`: how much of both names has to agree, from 0 to 1 (`difflib`).
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=likeness)
    return f" (did you mean '{close[0]}'?)" if close else ""


def number_as_text(value: Any) -> Any:
    """Text for a whole number: YAML reads `levels=3` as one, and `levels=0-4` as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Settings(BaseModel):
    """Base of every settings object: frozen, strict about keys, read from mappings, YAML or overrides."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, arbitrary_types_allowed=False
    )
    other_names: ClassVar[Mapping[str, str]] = {}  # names of other tools -> ours
    refused_names: ClassVar[Mapping[str, str]] = {}  # names of other tools -> what to write instead

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "settings") -> Self:
        """Validate a mapping.

        Errors: `ConfigError`, one line naming the key, what was expected and the closest known key.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: holds a {type(data).__name__}; a mapping of settings was expected")
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise ConfigError(_first_problem(cls, error, where)) from None

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Iterable[str] = ()) -> Self:
        """Read a YAML file, apply `a.b=value` overrides (values are YAML too), validate."""
        return cls.from_dict(apply_overrides(read_yaml(path), overrides), where=str(path))

    def with_overrides(self, overrides: Iterable[str]) -> Self:
        """A copy with `a.b=value` overrides applied and validated."""
        return type(self).from_dict(apply_overrides(self.to_dict(), overrides), where="override")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return self.model_dump(mode="json")

    def to_yaml(self, path: str | Path) -> None:
        """Write the settings as YAML (temporary name, then rename)."""
        write_text(path, yaml.safe_dump(self.to_dict(), sort_keys=False))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Errors: `ConfigError`, one line."""
    try:
        data = parse_yaml(read_bytes(path, SIZE))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give the path of a YAML file"
        ) from None
    except YamlError as error:
        raise ConfigError(f"{path}: {error}") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds a {type(data).__name__}; a mapping of settings was expected")
    return data


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b=value` strings to a nested mapping; the value is parsed as YAML.

    Errors: `ConfigError` for text without `=` or a path through something that is not a mapping.
    """
    result = _copy(data)
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"override '{text}': write it as key=value, for example optimiser.lr=0.001")
        node = result
        *parents, last = name.split(".")
        for part in parents:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
            if not isinstance(node, dict):
                raise ConfigError(f"override '{text}': '{part}' is a single value and has no keys below it")
        try:
            node[last] = parse_yaml(value) if value else None
        except YamlError as error:
            raise ConfigError(f"override '{text[:80]}': the value {error}") from None
        if isinstance(node[last], str):
            node[last] = _number_or_text(node[last])
    return result


def _number_or_text(text: str) -> Any:
    """Read `3e-4` as a number: YAML 1.1 takes it for text because it lacks a decimal point."""
    try:
        return float(text)
    except ValueError:
        return text


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value


def _first_problem(cls: type[Settings], error: ValidationError, where: str) -> str:
    problems = error.errors()
    # An unknown key often causes the other problems, so it is shown first.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    location = [str(part) for part in problem["loc"]]
    dotted = ".".join(part if len(part) <= 80 else f"{part[:60]}..." for part in location)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(cls, location[:-1])
        if not location[:-1] and location[0] in cls.refused_names:
            return f"{where}: unknown key '{dotted}'; {cls.refused_names[location[0]]}"
        others = [] if location[:-1] else list(cls.other_names)
        hint = suggest(location[-1], [*known, *others])
        if not hint and known:
            hint = f"; known keys: {', '.join(sorted(known))}"
        return f"{where}: unknown key '{dotted}'{hint}"
    if problem["type"] == "missing":
        return f"{where}: '{dotted}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    if not dotted:  # a check of several settings together, whose message names them
        return f"{where}: {message}{more}"
    given = repr(problem.get("input"))
    given = given if len(given) <= 120 else f"{given[:100]}... ({len(given):,} characters)"
    return f"{where}: '{dotted}': {message}, got {given}{more}"


def _known_keys(cls: type[BaseModel], location: list[str]) -> list[str]:
    """Field names of the settings object at `location` below `cls`; empty when the location is unknown."""
    current: Any = cls
    for part in location:
        fields = getattr(current, "model_fields", {})
        if part in fields:
            current = _settings_in(fields[part].annotation)
    return list(getattr(current, "model_fields", {}))


def _settings_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _settings_in(argument)
        if found is not None:
            return found
    return None
