"""What runs the unfinished jobs of one kind, one after another."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from contextvars import Context
from pathlib import Path
from typing import ClassVar

from coterie.hosting.claims import claim
from coterie.hosting.database import Keeper, StateError
from coterie.hosting.file_store import FileStore
from coterie.hosting.host import Host
from coterie.hosting.job_records import JobFile, JobRecord

log = logging.getLogger("coterie.serve")
_AGAIN = 5.0  # seconds after a failure of the store


class JobRunner(ABC):
    """The jobs of a server. Belongs to the event loop.

    `kind`: of their records. `unfinished`: their states. `ready`: whether jobs may run.
    """

    kind: ClassVar[str]
    unfinished: ClassVar[tuple[str, ...]]

    def __init__(self, host: Host, records: Keeper[JobFile], files: FileStore, folder: Path) -> None:
        self.host, self.records, self.files, self.folder = host, records, files, folder
        self.ready = True
        self._task: asyncio.Task[None] | None = None
        self.news = asyncio.Event()

    @abstractmethod
    async def work(self, record: JobRecord) -> None:
        """Do a job, to its end or that of the server."""

    def wake(self) -> None:
        """Look for jobs that are not done, and at those that run."""
        self.news.set()
        if self.ready and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def stop(self) -> None:
        """End; unfinished jobs go on at the next start."""
        self.ready = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        left: set[str] = set()  # those of other servers
        record: JobRecord | None = None
        while not self.host.draining:
            self.news.clear()
            try:
                found = await self.records.do(lambda file: file.all(self.kind))
                record = next((one for one in found if self._is_ours(one) and one.id not in left), None)
                if record is not None:
                    with claim(self.folder / "jobs", record.id) as mine:
                        if mine:
                            await self.work(record)
                        else:
                            left.add(record.id)
                elif not self.news.is_set():
                    return
            except StateError:  # the store has told the operator
                await asyncio.sleep(_AGAIN)
            except Exception as error:
                log.error("%s: %s", self.kind, error, exc_info=error)
                if record is not None:
                    left.add(record.id)

    def _is_ours(self, record: JobRecord) -> bool:
        """Whether a job is unfinished and its model is here: other servers may share the state."""
        return record.data["status"] in self.unfinished and any(map(self.host.serves, record.own["models"]))
