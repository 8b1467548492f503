"""What a server keeps of files and jobs, and what works on them."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp

from coterie.hosting.batch_runner import BatchRunner
from coterie.hosting.database import Keeper
from coterie.hosting.file_store import FileStore
from coterie.hosting.host import Host
from coterie.hosting.job_records import FILE, JobFile
from coterie.hosting.tuning_runner import TuningRunner


class JobBoard:
    """Files, batches and tuning jobs of a host. Belongs to the event loop."""

    def __init__(self, host: Host) -> None:
        settings = host.settings
        self.host = host
        self.records = Keeper(JobFile(settings.state_path / FILE))
        self.files = FileStore(settings.state_path / "files", self.records, settings.files_mb * 2**20)
        self.batches = BatchRunner(host, self.records, self.files, settings.state_path)
        self.tunings = TuningRunner(host, self.records, self.files, settings.state_path)

    @staticmethod
    def of(host: Host) -> JobBoard | None:
        """The board of a host, None where it keeps nothing."""
        return JobBoard(host) if host.settings.store else None

    def answer_with(self, app: ASGIApp) -> None:
        """Let `app` answer the requests of batches."""
        self.batches.app = app

    async def start(self) -> None:
        """Serve what was tuned, and go on with what is unfinished."""
        await self.tunings.serve_all()
        self.batches.wake()
        self.tunings.wake()

    async def stop(self) -> None:
        """End; what is unfinished goes on at the next start."""
        await asyncio.gather(self.batches.stop(), self.tunings.stop())
        self.records.close()
