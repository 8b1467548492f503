"""Forms that come in pieces: cut anywhere, they say the same."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.api.jobs.multipart import read_form
from coterie.hosting.errors import ApiError

TYPE = "multipart/form-data; boundary=b"


def read(pieces: list[bytes]) -> tuple[dict[str, str], str | None, bytes]:
    data = bytearray()

    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    form = asyncio.run(read_form(TYPE, chunks(), data.extend))
    return form.fields, form.file_name, bytes(data)


@settings(max_examples=20)
@given(
    st.binary(max_size=300).filter(lambda data: b"\r\n--b" not in data),
    st.text(max_size=20).filter(lambda text: "\r\n--b" not in text),
    st.lists(st.integers(0, 600), max_size=8),
)
def test_a_form_cut_anywhere_says_the_same(content: bytes, text: str, cuts: list[int]) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + text.encode() + b"\r\n"
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="C:\\a/b.txt"\r\n'
        b"Content-Type: text/plain\r\n\r\n" + content + b"\r\n--b--\r\n"
    )
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[a:b] for a, b in itertools.pairwise(places)]
    assert read(pieces) == ({"purpose": text}, "b.txt", content)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_are_a_form_or_an_error_of_the_request(pieces: list[bytes]) -> None:
    try:
        read([b"--b\r\n", *pieces])
    except ApiError as error:
        assert error.status in (400, 413)
