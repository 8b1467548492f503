"""A GGUF model in one file or in parts `NAME-00001-of-0000N.gguf`, whose first part has the keys."""

from __future__ import annotations

import re
from pathlib import Path

from coterie.checkpoints.gguf_file.header import GgufHeader, read_header
from coterie.config import CheckpointError

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def read_headers(path: Path) -> tuple[GgufHeader, ...]:
    """The headers of all parts of the model that a file belongs to, in order; any part may be given.

    Errors: `CheckpointError` for a damaged file, a part that is missing, and one of another model.
    """
    first = read_header(path)
    count = first.keys.get("split.count", 1)
    if count in (0, 1):
        return (first,)
    named = _PART.fullmatch(path.name)
    if named is None or int(named[3]) != count:
        raise CheckpointError(
            f"{path}: is one of {count} parts of a model; give it and the others their names, "
            f"NAME-00001-of-{count:05}.gguf"
        )
    headers = []
    for number in range(1, count + 1):
        part = path.with_name(f"{named[1]}-{number:05}-of-{count:05}.gguf")
        if part == path:
            header = first
        elif part.is_file():
            header = read_header(part)
        else:
            raise CheckpointError(f"{part}: is missing, part {number} of {count} of the model; fetch it too")
        _check_part(header, first, number)
        headers.append(header)
    _check_tensors(headers)
    return tuple(headers)


def _check_part(header: GgufHeader, first: GgufHeader, number: int) -> None:
    for key, wanted in (
        ("split.no", number - 1),
        ("split.count", first.keys["split.count"]),
        ("split.tensors.count", first.keys.get("split.tensors.count")),
    ):
        found = header.keys.get(key)
        if found != wanted:
            raise CheckpointError(
                f"{header.path}: belongs to another model or place: its {key} is {found}, not {wanted}; "
                "fetch it again"
            )


def _check_tensors(headers: list[GgufHeader]) -> None:
    where: dict[str, Path] = {}
    for header in headers:
        for name in header.tensors:
            if name in where:
                raise CheckpointError(f"{header.path}: tensor '{name}' is in {where[name].name} too")
            where[name] = header.path
    wanted = headers[0].keys.get("split.tensors.count")
    if wanted is not None and wanted != len(where):
        raise CheckpointError(
            f"{headers[0].path}: its parts hold {len(where)} tensors, not the {wanted} it states; "
            "fetch them again"
        )
