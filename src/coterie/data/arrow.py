"""Records of Parquet and Arrow files, without what Arrow adds to them, so that they teach what JSON would.

Arrow gives each object of a column the keys of all of them and fills in null: a call of `weather(city)` in
one row and of `add(a, b)` in another one become `{"city": "Oslo", "a": null, "b": null}`. Nothing in the file
tells such a key from a null that was meant. So a null key is taken away, except where the row itself shows
that it was meant: in the arguments of a call whose tool requires that argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.config.errors import DataError
from coterie.config.json_text import JsonError, parse_json
from coterie.data.fields import telling

_ARGUMENTS = ("arguments", "parameters")


class Exact(dict[str, Any]):
    """An object whose keys are all its own (an Arrow map), so that its nulls are values."""


def without_padding(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of Arrow without the null keys of its objects; those of the record itself stay.

    A null argument stays if a tool of the record has the call's name and requires it. Lists and maps keep
    their nulls.
    """
    required = dict(_required_arguments(record.get("tools")))
    return {name: _clean(value, required) for name, value in record.items()}


def _clean(value: Any, required: Mapping[str, frozenset[str]]) -> Any:
    if isinstance(value, list):
        return [_clean(item, required) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value, Exact):
        return {key: _clean(item, required) for key, item in value.items()}
    kept = {key: _clean(item, required) for key, item in value.items() if item is not None}
    name = value.get("name")
    meant = required.get(name, frozenset()) if isinstance(name, str) else frozenset()
    for key in _ARGUMENTS if meant else ():
        given = value.get(key)
        if isinstance(given, dict):
            kept[key] = {
                inner: _clean(item, required)
                for inner, item in given.items()
                if item is not None or inner in meant
            }
    return kept


def _required_arguments(tools: Any) -> Iterator[tuple[str, frozenset[str]]]:
    """The name of each tool with the arguments that it requires. A tool of another form gives nothing."""
    if isinstance(tools, str):
        try:
            tools = parse_json(tools)
        except JsonError:
            return  # reading the field reports the fault
    for tool in tools if isinstance(tools, list) else ():
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
        schema = inner.get("parameters") if isinstance(inner, Mapping) else None
        names = schema.get("required") if isinstance(schema, Mapping) else None
        if isinstance(inner, Mapping) and isinstance(inner.get("name"), str) and isinstance(names, list):
            yield inner["name"], frozenset(name for name in names if isinstance(name, str))


def arrow_records(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any] | DataError]:
    """The records of a Parquet or Arrow file, or why one cannot be read in its place.

    `columns`: the only columns to read (default: all), besides those that say what is learnt.
    Errors: `DataError` for a file that cannot be read, or that has none of the columns.
    """
    import pyarrow

    try:
        for batch in _batches(path, columns):
            try:
                # One conversion is faster; a record that cannot be converted is then found one by one.
                yield from _plain(batch)
            except (ValueError, TypeError, OverflowError, pyarrow.ArrowException):
                for at in range(batch.num_rows):
                    try:
                        (record,) = _plain(batch.slice(at, 1))
                    except (ValueError, TypeError, OverflowError, pyarrow.ArrowException) as error:
                        yield DataError(f"cannot be read ({_line(error)})")
                    else:
                        yield record
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        kind = "Arrow" if path.suffix == ".arrow" else "Parquet"
        raise DataError(f"{path}: is not a readable {kind} file ({_line(error)})") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _batches(path: Path, columns: Sequence[str]) -> Iterator[Any]:
    import pyarrow.ipc
    import pyarrow.parquet

    if path.suffix != ".arrow":
        file = pyarrow.parquet.ParquetFile(path)
        names = _wanted(path, file.schema_arrow.names, columns)
        yield from file.iter_batches(columns=names, batch_size=1024)
        return
    with path.open("rb") as stream:  # `datasets` writes streams, other programs files
        is_file = stream.read(6) == b"ARROW1"
    if is_file:
        reader = pyarrow.ipc.open_file(path)
        batches = (reader.get_batch(at) for at in range(reader.num_record_batches))
    else:
        batches = reader = pyarrow.ipc.open_stream(path.open("rb"))
    names = _wanted(path, reader.schema.names, columns)
    for batch in batches:
        yield batch if names is None else batch.select(names)


def _wanted(path: Path, names: Sequence[str], columns: Sequence[str]) -> list[str] | None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: has several columns named {', '.join(twice)}")
    found = [name for name in columns if name in names]
    if columns and not found:
        wanted = " or ".join(f"'{name}'" for name in columns)
        raise DataError(f"{path}: has no column {wanted}; its columns: {', '.join(names)}")
    return [*found, *(name for name in names if telling(name) and name not in found)] if found else None


def _plain(batch: Any) -> list[dict[str, Any]]:
    types = {field.name: field.type for field in batch.schema}
    records = batch.to_pylist()
    exact = [name for name, kind in types.items() if "map<" in str(kind)]
    for record in records if exact else ():
        record.update({name: _with_maps(record[name], types[name]) for name in exact})
    return [without_padding(record) for record in records]


def _with_maps(value: Any, kind: Any) -> Any:
    """The value with Arrow's maps, which are lists of pairs, as objects.

    Errors: `ValueError` for a map that has a key twice.
    """
    import pyarrow.types

    if value is None:
        return None
    if pyarrow.types.is_map(kind):
        pairs = {str(key): _with_maps(item, kind.item_type) for key, item in value}
        if len(pairs) != len(value):
            raise ValueError("a map has a key twice")
        return Exact(pairs)
    if pyarrow.types.is_struct(kind):
        return {key: _with_maps(item, kind.field(key).type) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_maps(item, kind.value_type) for item in value]
    return value
