"""Runs batches one after another, behind the requests of clients: `docs/jobs.md` says how.

Each answer is stored when it is complete, so that a batch goes on after a stop or a kill where it was: no
request whose answer is stored runs again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context
from functools import partial
from typing import Any

from starlette.types import ASGIApp

from coterie.hosting.batch_lines import BatchLine, index, not_run, result_of, tokens_of
from coterie.hosting.errors import explain
from coterie.hosting.inner_request import Busy, InnerAnswer, ask
from coterie.hosting.job_records import JobFile, JobRecord, new_id, now
from coterie.hosting.job_runner import JobRunner

_LOOK = 0.02  # seconds between two looks at how busy the engine is
_LOOK_STORED = 2.0  # seconds between two looks at whether another server has cancelled the batch
Task = asyncio.Task[InnerAnswer]


class BatchRunner(JobRunner):
    """The batches of a server. `app` answers their requests, once it is known."""

    kind = "batch"
    unfinished = ("validating", "in_progress", "finalizing", "cancelling")
    app: ASGIApp | None = None

    async def work(self, record: JobRecord) -> None:
        """Run a batch."""
        await BatchRun(self, record).run()

    async def pause(self, seconds: float, running: set[Task]) -> bool:
        """Wait until a request is done, at most some seconds; whether `wake` was called meanwhile."""
        news = asyncio.ensure_future(self.news.wait())
        try:
            await asyncio.wait({news, *running}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
        told = self.news.is_set()
        self.news.clear()
        return told

    def has_room(self, num_running: int) -> bool:
        """Whether another request of a batch may start: never in the last free place of an engine."""
        loaded = self.host.services
        most = max(1, self.host.settings.slots // 2)
        return (
            not self.host.draining
            and num_running < most
            and all(
                one.thread.num_waiting == 0 and one.engine.num_running < max(1, one.engine.max_batch - 1)
                for one in loaded
            )
        )


class BatchRun:
    """One batch that is being run."""

    def __init__(self, runner: BatchRunner, record: JobRecord) -> None:
        self._runner, self._record = runner, record
        self._records = runner.records
        self._path = runner.files.path(record.data["input_file_id"])
        self._lines: list[BatchLine] = []
        self._resting = 0.0  # until when nothing starts, because the server was busy
        self._looked = time.monotonic()

    async def run(self) -> None:
        """Validate, run what is left, write the results. Leaves the batch as it is when the server ends."""
        if not await self._validate():
            return
        status = self._record.data["status"]
        if status in ("in_progress", "validating"):
            await self._answer_all()
            if self._runner.host.draining and self._ending() is None and await self._left():
                return
        await self._finish()

    async def _validate(self) -> bool:
        host, data = self._runner.host, self._record.data
        read = partial(index, self._path, data["endpoint"], host.settings.max_body, host.serves)
        try:
            self._lines, problems = await asyncio.to_thread(read)
        except OSError:
            gone = {"code": "file_not_found", "message": "the input file is gone"}
            self._lines, problems = [], [{**gone, "param": "input_file_id", "line": None}]
        if data["status"] in ("validating", "in_progress") and problems:
            await self._write_results()
            await self._set("failed", errors={"object": "list", "data": problems})
            return False
        if data["status"] == "validating":
            counts = {"total": len(self._lines), "completed": 0, "failed": 0}
            await self._set("in_progress", request_counts=counts)
        return True

    async def _left(self) -> list[int]:
        done = await self._records.do(lambda file: file.positions(self._record.id))
        return [position for position in range(len(self._lines)) if position not in done]

    async def _answer_all(self) -> None:
        """Run the requests that have no stored answer, until the end, a cancellation or the server's end."""
        pending = deque(await self._left())
        running: dict[Task, int] = {}
        try:
            while (pending or running) and self._ending() is None:
                if self._runner.host.draining and not running:
                    return
                if pending and time.monotonic() >= self._resting and self._runner.has_room(len(running)):
                    position = pending.popleft()
                    running[self._start(position)] = position
                told = await self._runner.pause(_LOOK, set(running))
                for task in [one for one in running if one.done()]:
                    position = running.pop(task)
                    if not await self._keep(task, position):
                        pending.appendleft(position)
                await self._look(told)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for task, position in running.items():
                await self._keep(task, position)

    def _start(self, position: int) -> Task:
        async def work() -> InnerAnswer:
            line = await asyncio.to_thread(self._lines[position].read, self._path)
            app, host = self._runner.app, self._runner.host
            if app is None:
                raise Busy(1.0)
            holder = host.keys.named(self._record.owner)
            return await ask(app, host, holder, self._record.data["endpoint"], line["body"])

        return asyncio.get_running_loop().create_task(work(), context=Context())

    async def _keep(self, task: Task, position: int) -> bool:
        """Store an answer; False for a request that has to run again."""
        if task.cancelled():
            return False
        error = task.exception()
        if isinstance(error, Busy):
            self._resting = time.monotonic() + error.seconds
            return False
        if error is None:
            answer = task.result()
        else:
            failed = explain(error) if isinstance(error, Exception) else None
            if failed is None:
                return False
            answer = InnerAnswer(failed.status, failed.body(), [])
        line = await asyncio.to_thread(self._lines[position].read, self._path)
        good = answer.status < 400
        tokens = tokens_of(answer.body) if good else (0, 0, 0, 0)

        def count(record: JobRecord) -> None:
            record.data["request_counts"]["completed" if good else "failed"] += 1
            _add_usage(record.data["usage"], tokens)

        result = result_of(line["custom_id"], answer)
        kind, id = ("output" if good else "error"), self._record.id
        await self._renew(lambda file: file.add_line(id, kind, result, position, count))
        self._runner.host.metrics.add("coterie_batch_requests_total", result=kind)
        return True

    async def _look(self, now: bool) -> None:
        """Read the batch again: it may have been cancelled."""
        if now or time.monotonic() > self._looked + _LOOK_STORED:
            self._looked = time.monotonic()
            await self._renew(lambda file: file.change(self._record.id, lambda record: None))

    async def _renew(self, work: Callable[[JobFile], JobRecord | None]) -> None:
        found = await self._records.do(work)
        if found is not None:
            self._record = found

    async def _set(self, status: str, **more: Any) -> None:
        def change(record: JobRecord) -> None:
            record.data |= {"status": status, f"{status}_at": now(), **more}

        await self._renew(lambda file: file.change(self._record.id, change))

    def _ending(self) -> str | None:
        """How the batch ends before it is complete."""
        data = self._record.data
        if data["status"] == "cancelling":
            return "cancelled"
        return "expired" if data["expires_at"] <= now() else None

    async def _finish(self) -> None:
        """Write the files of results. A server that is killed here does so again, with the same names."""
        ending = self._record.own.get("ending") or self._ending() or "completed"
        if ending == "expired":
            await self._expire()

        def change(record: JobRecord) -> None:
            record.own["ending"] = ending
            if ending == "completed":
                record.data |= {"status": "finalizing", "finalizing_at": now()}

        await self._renew(lambda file: file.change(self._record.id, change))
        await self._write_results()
        await self._set(ending)
        await self._records.do(lambda file: file.drop_lines(self._record.id))

    async def _write_results(self) -> None:
        for kind in ("output", "error"):
            if await self._records.do(partial(_has_lines, id=self._record.id, kind=kind)):
                await self._write(kind)

    async def _write(self, kind: str) -> None:
        def name(record: JobRecord) -> None:
            record.own.setdefault(kind, new_id("file-"))

        await self._renew(lambda file: file.change(self._record.id, name))
        id, title = self._record.own[kind], f"{self._record.id}_{kind}.jsonl"
        pieces = partial(_pieces, id=self._record.id, kind=kind)
        await self._runner.files.write(id, self._record.owner, "batch_output", title, pieces)
        show = {f"{kind}_file_id": id}
        await self._renew(lambda file: file.change(self._record.id, lambda record: record.data.update(show)))

    async def _expire(self) -> None:
        message = "This request could not be executed before the completion window expired."
        for position in await self._left():
            with contextlib.suppress(OSError):
                line = await asyncio.to_thread(self._lines[position].read, self._path)
                result = not_run(line["custom_id"], "batch_expired", message)
                add = partial(_add_error, id=self._record.id, result=result, position=position)
                await self._records.do(add)


def _has_lines(file: JobFile, id: str, kind: str) -> bool:
    return bool(file.lines(id, [kind], most=1))


def _add_error(file: JobFile, id: str, result: dict[str, Any], position: int) -> None:
    file.add_line(id, "error", result, position)


def _pieces(file: JobFile, id: str, kind: str) -> Iterator[bytes]:
    """The lines of results, in the order of the requests."""
    after = -1
    while found := file.lines(id, [kind], after, 200):
        after = found[-1][0]
        for _, data in found:
            yield json.dumps(data, ensure_ascii=False).encode() + b"\n"


def _add_usage(usage: dict[str, Any], tokens: tuple[int, int, int, int]) -> None:
    read, cached, written, reasoning = tokens
    usage["input_tokens"] += read
    usage["output_tokens"] += written
    usage["total_tokens"] += read + written
    usage["input_tokens_details"]["cached_tokens"] += cached
    usage["output_tokens_details"]["reasoning_tokens"] += reasoning
