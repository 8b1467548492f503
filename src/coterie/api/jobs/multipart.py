"""Forms with one file (multipart/form-data, RFC 7578), read as they come: the file is never in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from coterie.hosting.errors import ApiError, invalid

_MOST_FIELDS = 32
_MOST_TEXT = 64 * 1024  # bytes of all fields together
_AT_ONCE = 2**20  # bytes of the file that are written together
_LONGEST_NAME = 255


@dataclass
class Form:
    """What a form holds. `fields`: name -> text. `file_name`: of the part `file`, None until it came."""

    fields: dict[str, str] = field(default_factory=dict)
    file_name: str | None = None


class _FormReader:
    """Callbacks of the parser: they put fields into `form` and bytes of the file into `data`."""

    def __init__(self, boundary: bytes) -> None:
        self.form, self.data, self.ended = Form(), bytearray(), False
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = bytearray(), bytearray()
        self._field: str | None = None
        self._text = bytearray()
        self._size = 0
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._header,
                "on_headers_finished": self._begin,
                "on_part_data": self._take,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def _header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _begin(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._text = bytearray()
        self._field = None if b"filename" in options else name
        if self._field is None:
            if name != "file":
                raise invalid(f"{name[:80]!r}: the form has one file, in the part 'file'", f"/{name[:80]}")
            if self.form.file_name is not None:
                raise invalid("/file: a second file", "/file")
            self.form.file_name = _clean(options[b"filename"])
        elif name in self.form.fields or not name or len(self.form.fields) == _MOST_FIELDS:
            raise invalid(f"{name[:80]!r}: the form has this field twice, or too many", f"/{name[:80]}")

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self.data += data[start:end]
            return
        self._size += end - start
        if self._size > _MOST_TEXT:
            raise ApiError(
                413, f"the fields of the form are larger than {_MOST_TEXT} bytes", "form_too_large"
            )
        self._text += data[start:end]

    def _end(self) -> None:
        if self._field is not None:
            try:
                self.form.fields[self._field] = self._text.decode()
            except UnicodeDecodeError:
                raise invalid(f"/{self._field[:80]}: is not UTF-8", f"/{self._field[:80]}") from None

    def _finish(self) -> None:
        self.ended = True


async def read_form(content_type: str, chunks: AsyncIterator[bytes], write: Callable[[bytes], None]) -> Form:
    """Read a form; the bytes of its file go to `write`, in a thread.

    Errors: `ApiError` 400 for what is no such form, 413 for large fields, 415 for another type of body;
    those of `write`.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not 1 <= len(options.get(b"boundary", b"")) <= 200:
        message = "send the file as multipart/form-data, with its boundary in 'content-type'"
        raise ApiError(415, message, "unsupported_media_type")
    reader = _FormReader(options[b"boundary"])
    try:
        async for chunk in chunks:
            reader.parser.write(chunk)
            if len(reader.data) >= _AT_ONCE:
                await _flush(reader, write)
    except FormParserError as error:
        raise ApiError(400, f"the form cannot be read: {str(error)[:200]}", "invalid_form") from None
    if not reader.ended:
        raise ApiError(400, "the form ends before its last boundary", "invalid_form")
    if reader.form.file_name is None:
        raise invalid("/file: is missing", "/file", "missing_required_parameter")
    await _flush(reader, write)
    return reader.form


async def _flush(reader: _FormReader, write: Callable[[bytes], None]) -> None:
    data, reader.data = bytes(reader.data), bytearray()
    if data:
        await asyncio.to_thread(write, data)


def _clean(name: bytes) -> str:
    """A file's name as it is shown; it is never a path here."""
    text = name.decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:_LONGEST_NAME] or "file"
