"""`coterie models`: the models of this machine and what can be done with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import Json
from coterie.cli.output import answer

if TYPE_CHECKING:
    from coterie.library.models import ModelEntry

_HEADINGS: tuple[str, ...] = (
    "MODEL", "FAMILY", "PARAMETERS", "STORED AS", "SIZE", "LOAD", "TUNE", "SERVE",
)  # fmt: skip
_WIDEST = 40  # characters of a column; longer names have a line for themselves


def models(
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Directories or GGUF files to list [default: the hub's cache]."),
    ] = None,
    remove: Annotated[
        str | None,
        typer.Option(help="Delete owner/name from the cache, or one revision (owner/name@revision)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List models: family, parameters, types, size, and whether each can be loaded, tuned and served here.

    No weights are read. Memory is that of the GPU, or else of the machine. A damaged entry is a line that
    says so.
    """
    from coterie.config import ConfigError
    from coterie.hub.cache import cache_directory
    from coterie.hub.names import HubName
    from coterie.library.models import examine, memory_limit
    from coterie.library.places import cached_places, local_places, remove_cached
    from coterie.report.words import size

    if remove is not None:
        name = HubName.parse(remove)
        if paths or name is None or name.quant is not None:
            raise ConfigError(f"--remove {remove}: write owner/name or owner/name@revision, and nothing else")
        freed = remove_cached(name)
        answer(
            {"removed": str(name), "freed_bytes": freed}, as_json, [f"removed {name}: {size(freed)} freed"]
        )
        return
    places = [place for path in paths or () for place in local_places(Path(path).expanduser())]
    limit = memory_limit()
    found = [examine(place, limit) for place in (places if paths else cached_places())]
    listed = {"memory_bytes": limit, "models": [entry.to_dict() for entry in found]}
    where = ", ".join(paths) if paths else f"the cache {cache_directory()}"
    answer(listed, as_json, _lines(found, where, size(limit)))


def _lines(found: Sequence[ModelEntry], where: str, limit: str) -> Iterator[str]:
    if not found:
        yield f"no models in {where}; fetch one with coterie pull owner/name"
        return
    yield f"{len(found)} models in {where}; memory {limit}"
    rows = [_HEADINGS, *(_row(entry) for entry in found)]
    widths = [min(_WIDEST, max(len(row[column]) for row in rows)) for column in range(len(_HEADINGS))]
    for row, entry in zip(rows, [None, *found], strict=True):
        if len(row[0]) > _WIDEST:
            yield row[0]
            row = ("", *row[1:])
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        yield from [] if entry is None else _reasons(entry)


def _row(entry: ModelEntry) -> tuple[str, ...]:
    from coterie.report.words import count, size

    parameters = "" if entry.total is None else count(entry.total)
    if entry.active is not None and entry.active != entry.total:
        parameters += f" ({count(entry.active)} active)"
    uses = (str(entry.load), str(entry.tune), str(entry.serve))
    return (entry.name, entry.family or "-", parameters, entry.stored, size(entry.size), *uses)


def _reasons(entry: ModelEntry) -> Iterator[str]:
    """Why not, or with what; reasons of several uses that are the same are one line."""
    said: dict[str, list[str]] = {}
    for name in ("load", "tune", "serve"):
        use = getattr(entry, name)
        if use.words:
            said.setdefault(use.words, []).append(f"{name} {use}")
    for words, uses in said.items():
        same = len(uses) == 3
        yield f"    {words}" if same else f"    {', '.join(uses)}: {words}"
