"""Plain text as tuning examples: files and folders read as `coterie train` reads them.

A file is text unless its name or its first line says that it holds records. A folder is text if it holds no
file of records.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from coterie.config.errors import DataError
from coterie.config.json_text import JsonError, parse_json_object
from coterie.data.dedup import deduplicate
from coterie.data.formats import TextExample
from coterie.data.records import EMBEDDED, RECORDS, Origin, walk
from coterie.data.sources import CODE, PROSE, Reading, read_sources

_log = logging.getLogger("coterie")


def is_plain_text(source: str) -> bool:
    """Whether a source of examples is plain text: `primer`, a text file, or a folder of such files.

    A folder that holds records too is read as records; a warning then names the texts that are not used.
    Errors: `DataError` for a folder that cannot be read.
    """
    if source == "primer" or source.startswith("primer@"):
        return True
    path = Path(source).expanduser()
    if source in EMBEDDED or source == "-" or source.startswith("hf://"):
        return False
    if path.is_file():
        return path.suffix not in RECORDS and path.suffix in PROSE | CODE and not _begins_with_record(path)
    if not path.is_dir():
        return False
    files = list(walk(path, Counter()))
    texts = [file for file in files if file.suffix in PROSE | CODE and file.suffix not in RECORDS]
    if any(file.suffix in RECORDS for file in files):
        if texts:
            _log.warning(
                "%s: holds records, so %d text files are not used, %s first; name a folder without records "
                "to learn them", source, len(texts), texts[0],
            )  # fmt: skip
        return False
    return bool(texts)


def read_texts(source: str) -> list[TextExample]:
    """The documents of a source of plain text without repeated ones, each with its file and first line.

    Errors: `DataError` for a source that cannot be read or holds no text.
    """
    reading = Reading()
    documents, dropped = deduplicate(list(read_sources([source], reading)))
    for reason, count in (reading.report.skipped + Counter(dropped)).items():
        if count:
            _log.info("%s: left out: %d x %s", source, count, reason)
    return [TextExample(document.text, Origin(document.source, document.number)) for document in documents]


def _begins_with_record(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            first = next((line for line in iter(lambda: stream.readline(1 << 20), b"") if line.strip()), b"")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        parse_json_object(first)
    except JsonError:
        return False
    return True
