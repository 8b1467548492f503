"""What every request body shares: strictness, reading, and errors with a pointer to the field."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from coterie.hosting.errors import ApiError, invalid
from coterie.protocol.fields import Ignored, UnreadField, sift

MAX_TOKENS = 2**31 - 1

Text = Annotated[str, Field(max_length=16 * 2**20)]

# In JSON 10.0 is a whole number too.
AS_WHOLE = BeforeValidator(lambda n: int(n) if isinstance(n, float) and n.is_integer() else n)
Whole = Annotated[int, AS_WHOLE]

Name = Annotated[str, Field(min_length=1, max_length=512)]

Ids = list[int]

Probability = Annotated[float, Field(ge=0, le=1)]


class Body(BaseModel):
    """Strict: no conversion between types, and no unknown keys but those that `field_table.EXTRAS` names."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    place: ClassVar[str] = "elsewhere"  # in the table

    @model_validator(mode="before")
    @classmethod
    def _sifted(cls, data: Any, info: ValidationInfo) -> Any:
        """Leave out what asks for nothing and what has no effect; the latter is named in the context."""
        if not isinstance(data, Mapping):
            return data
        required = {field.alias or name: field.is_required() for name, field in cls.model_fields.items()}
        try:
            left = sift(cls.place, data, required, info.context)
        except UnreadField as error:  # pydantic would cut its parts off
            told = {"name": error.name, "reason": error.reason}
            raise PydanticCustomError("unread", "{reason}", told) from None
        return {key: value for key, value in left.items() if value is not None or required.get(key, True)}


B = TypeVar("B", bound=Body)


def read(kind: type[B], data: Mapping[str, Any], strict: bool = False) -> tuple[B, list[str]]:
    """The request, and the fields that were accepted and have no effect; none are with `strict`.

    Errors: `ApiError` 400 whose `param` is the JSON pointer of the field.
    """
    if data.get("stream_options") is not None and "stream" in kind.model_fields and not data.get("stream"):
        raise invalid('/stream_options: goes with "stream": true only', "/stream_options")
    named = Ignored(strict=strict)
    try:
        return kind.model_validate(data, context=named), named
    except ValidationError as error:
        raise _problem(error, data) from None


def _problem(error: ValidationError, data: Mapping[str, Any]) -> ApiError:
    """The deepest problem: of a field's alternative forms, the one that matched furthest was meant."""
    problems = error.errors(include_url=False, include_input=False)

    def where(problem: Mapping[str, Any]) -> list[int | str]:
        path = _path(problem["loc"], data, missing=problem["type"] == "missing")
        return [*path, problem["ctx"]["name"]] if problem["type"] == "unread" else path

    def rank(pair: tuple[list[int | str], Any]) -> tuple[int, bool, bool]:
        return len(pair[0]), pair[1]["type"] == "unread", not pair[1]["type"].endswith("_type")

    path, problem = max(((where(one), one) for one in problems), key=rank)
    pointer = pointer_to(path)
    if problem["type"] == "unread":
        return _unread(path, problem["ctx"]["reason"])
    if problem["type"] == "missing":
        return invalid(f"{pointer}: is missing", pointer, "missing_required_parameter")
    return invalid(f"{pointer or 'body'}: {problem['msg'][:200]}", pointer or None)


def sifted(
    place: str,
    data: Mapping[str, Any],
    known: Collection[str],
    named: Ignored,
    path: Sequence[int | str],
) -> dict[str, Any]:
    """`sift` for an object that no `Body` describes, at `path` of the request. Errors: `ApiError` 400."""
    try:
        return sift(place, data, known, named)
    except UnreadField as error:
        raise _unread([*path, error.name], error.reason) from None


def _unread(path: Sequence[int | str], reason: str) -> ApiError:
    pointer = pointer_to(path)
    return ApiError(400, f"{pointer}: {reason}", "unsupported_parameter", pointer)


def pointer_to(path: Sequence[int | str]) -> str:
    """The JSON pointer of a path, shortened for messages."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)[:200]


def _path(loc: Sequence[int | str], data: Any, missing: bool) -> list[int | str]:
    """The steps of pydantic's location that exist in the data; it also names alternative forms.

    `missing`: the last step does not, as it is a field that is missing.
    """
    path: list[int | str] = []
    for place, part in enumerate(loc):
        inside = (isinstance(data, Mapping) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            path.append(part)
            data = data[part]
        elif missing and place == len(loc) - 1:
            path.append(part)
    return path
