"""Uploaded files and results: the content of each in a folder, under a name that the server chose."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from coterie.config.temporaries import replace_with, temporary
from coterie.hosting.database import Keeper, StateError
from coterie.hosting.errors import ApiError
from coterie.hosting.job_records import JobFile, JobRecord, new_id, now

_DAY = 86400
_BATCH_DAYS = 30  # days that files of batches are kept, as in OpenAI's API


class Upload:
    """A file that is being received. `write` and `close` may block; call them from any one thread."""

    def __init__(self, path: Path, room: int) -> None:
        self.num_bytes = 0
        self.part = path
        self._room = room
        self._file = path.open("wb")

    def write(self, data: bytes) -> None:
        """Append. Errors: `ApiError` 413 when the store is full; `StateError`."""
        self.num_bytes += len(data)
        if self.num_bytes > self._room:
            raise ApiError(413, "there is no room for this file (--files-mb); delete others", "files_full")
        try:
            self._file.write(data)
        except OSError as error:
            raise StateError(f"files: {error.strerror}") from None

    def close(self) -> None:
        """End the file. Errors: `StateError`."""
        try:
            self._file.close()
        except OSError as error:
            raise StateError(f"files: {error.strerror}") from None


class FileStore:
    """The files of a server. `most_bytes`: of all that are uploaded, together."""

    def __init__(self, folder: Path, records: Keeper[JobFile], most_bytes: int) -> None:
        self.folder, self.records, self.most_bytes = folder, records, most_bytes
        self._incoming: set[Upload] = set()

    def path(self, id: str) -> Path:
        """The content of the file with this id, which must be one of a record."""
        return self.folder / id

    @contextlib.asynccontextmanager
    async def receive(self) -> AsyncIterator[tuple[str, Upload]]:
        """The id and the content of a new file, which is gone at the end unless `keep` was called."""
        await self.sweep()
        used = await self.records.do(lambda file: file.num_bytes())
        room = self.most_bytes - used - sum(one.num_bytes for one in self._incoming)
        id = new_id("file-")
        stack = contextlib.ExitStack()
        upload = await asyncio.to_thread(self._begin, stack, id, room)
        self._incoming.add(upload)
        try:
            yield id, upload
        finally:
            self._incoming.discard(upload)
            with contextlib.suppress(StateError):
                upload.close()
            stack.close()

    async def keep(
        self, id: str, upload: Upload, owner: str, purpose: str, name: str, seconds: int | None = None
    ) -> dict[str, Any]:
        """Give a received file its name and its record, which is returned. `seconds`: until it expires.

        Errors: `StateError`.
        """

        def move() -> None:
            upload.close()
            with _as_state_error():
                replace_with(upload.part, self.path(id))

        await asyncio.to_thread(move)
        if seconds is None and purpose in ("batch", "batch_output"):
            seconds = _BATCH_DAYS * _DAY
        data = {
            "id": id,
            "object": "file",
            "bytes": upload.num_bytes,
            "created_at": now(),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
            "expires_at": None if seconds is None else now() + seconds,
            "status_details": None,
        }
        await self.records.do(lambda file: file.add(JobRecord(id, owner, "file", data)))
        return data

    async def write(
        self, id: str, owner: str, purpose: str, name: str, pieces: Callable[[JobFile], Iterator[bytes]]
    ) -> None:
        """Keep a result of the server itself, unless the file is there already. Errors: `StateError`.

        `pieces` reads from the records; the limit on uploads does not hold.
        """

        def fill(file: JobFile) -> Upload | None:
            with contextlib.suppress(ApiError):
                file.get(owner, "file", id)
                return None
            upload = self._begin(stack, id, 2**62)
            for piece in pieces(file):
                upload.write(piece)
            return upload

        with contextlib.ExitStack() as stack:
            upload = await self.records.do(fill)
            if upload is not None:
                await self.keep(id, upload, owner, purpose, name)

    async def get(self, owner: str, id: str) -> JobRecord:
        """The record of a file. Errors: `ApiError` 404, `StateError`."""
        found = await self.records.do(lambda file: file.get(owner, "file", id))
        if _expired(found):
            await self.delete(owner, id)
            return await self.get(owner, id)
        return found

    async def delete(self, owner: str, id: str) -> None:
        """Remove a file. Errors: `ApiError` 404, `StateError`."""
        await self.records.do(lambda file: file.delete(owner, "file", id))
        await asyncio.to_thread(self.path(id).unlink, missing_ok=True)

    async def sweep(self) -> None:
        """Remove the files that have expired, and contents without a record that a killed server left."""
        records = await self.records.do(lambda file: file.all("file"))
        for record in filter(_expired, records):
            with contextlib.suppress(ApiError):  # another server was faster
                await self.delete(record.owner, record.id)
        await asyncio.to_thread(self._remove_strays, {record.id for record in records})

    def _remove_strays(self, known: set[str]) -> None:
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name not in known and entry.name.startswith("file-") and "." not in entry.name:
                    if entry.stat().st_mtime < time.time() - _DAY:
                        os.unlink(entry.path)

    def _begin(self, stack: contextlib.ExitStack, id: str, room: int) -> Upload:
        with _as_state_error():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return Upload(stack.enter_context(temporary(self.path(id))), room)


def _expired(record: JobRecord) -> bool:
    end = record.data["expires_at"]
    return end is not None and end <= now()


@contextlib.contextmanager
def _as_state_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(f"files: {error.strerror}") from None
