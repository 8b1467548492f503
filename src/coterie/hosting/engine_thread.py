"""One thread owns the engine; coroutines submit jobs and await events.

Only this thread touches the engine. Other threads read counts that are single attributes
(`engine.num_running`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from coterie.hosting.errands import Errand
from coterie.hosting.errors import ApiError, draining, engine_dead, too_slow
from coterie.hosting.keys import owner
from coterie.infer.engine import Engine
from coterie.infer.request import LOWEST, RequestOptions, TokenEvent
from coterie.infer.sampling import SamplingParams

T = TypeVar("T")
# Added to the priority of what the current request generates: 0, or more for work that nobody waits for.
BEHIND: ContextVar[int] = ContextVar("coterie_behind", default=0)
BATCH = 2 * LOWEST  # for a batch: behind every priority that a request can ask for
CallEvents = list[tuple[int, TokenEvent]]  # index of the job, its event
log = logging.getLogger("coterie.serve")


@dataclass(frozen=True)
class Job:
    """One sequence to generate."""

    prompt: list[int]
    params: SamplingParams
    options: RequestOptions = field(default_factory=RequestOptions)


def _placed(job: Job) -> Job:
    """The job behind others where its coroutine says so, and with the name of the request's key in its salt.

    Keys share no prompts: the time to the first token would tell one what another has asked.
    """
    options, key = job.options, owner()
    salt = f"{key} {options.salt}" if key else options.salt
    return replace(job, options=replace(options, priority=options.priority + BEHIND.get(), salt=salt))


class Call:
    """The jobs of one request; their events arrive in one stream of (index of the job, event)."""

    def __init__(self, owner: EngineThread, jobs: Sequence[Job]) -> None:
        self.jobs = list(jobs)
        self.unfinished = len(self.jobs)
        self.cancelled = False
        self.num_read = 0  # prompt tokens, as `EngineThread.progress` last reported them
        self.ids: dict[int, int] = {}  # engine's request -> index of the job
        self._owner = owner
        self.loop = asyncio.get_running_loop()
        self._dropped: set[int] = set()
        self.queue: asyncio.Queue[CallEvents | Exception] = asyncio.Queue()

    async def batches(self, deadline: float) -> AsyncGenerator[CallEvents, None]:
        """The events as they come.

        Ends after the last job's last event. Closing the generator early cancels the remaining jobs.
        Errors: `ApiError` when `deadline` (monotonic) has passed or the engine has failed.
        """
        open_jobs = set(range(len(self.jobs)))
        self._owner.listen(self)
        alarm = None
        if deadline < math.inf:
            alarm = self.loop.call_at(deadline, self.queue.put_nowait, too_slow())
        try:
            while open_jobs := open_jobs - self._dropped:
                if time.monotonic() >= deadline:
                    raise too_slow()
                got = await self.queue.get()
                if isinstance(got, Exception):
                    raise got
                got = [(index, event) for index, event in got if index in open_jobs]
                open_jobs -= {index for index, event in got if event.finish_reason is not None}
                yield got
        finally:
            if alarm is not None:
                alarm.cancel()
            self._owner.listening.discard(self)
            self.cancel()

    def cancel(self) -> None:
        """Drop the unfinished jobs; finished ones are unaffected."""
        if self.unfinished and not self.cancelled:
            self.cancelled = True
            self._owner.cancel(self, None)

    def drop(self, index: int) -> None:
        """End one job early, because its reply is complete for the caller; its prompt may be used again."""
        self._dropped.add(index)
        self._owner.cancel(self, index)

    def push(self, item: CallEvents | Exception) -> None:
        """Set what `batches` yields or raises next. Callable from any thread."""
        hand_out({self: item})


def hand_out(items: Mapping[Call, CallEvents | Exception]) -> None:
    """Give each call its item. An event loop is woken once for all of its calls. Callable from any thread."""

    def put(own: list[tuple[Call, CallEvents | Exception]]) -> None:
        for call, item in own:
            call.queue.put_nowait(item)

    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Call, CallEvents | Exception]]] = {}
    for call, item in items.items():
        by_loop.setdefault(call.loop, []).append((call, item))
    for loop, own in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any longer
            loop.call_soon_threadsafe(put, own)


class EngineThread:
    """Runs an engine. `max_queue`: requests that may wait; `max_queued_tokens`: their prompts' tokens."""

    def __init__(self, engine: Engine, max_queue: int, max_queued_tokens: int) -> None:
        self.engine = engine
        self.max_queue = max_queue
        self.max_queued_tokens = max_queued_tokens
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self.refusing = False
        # Calls and errands that a coroutine waits for; event loop only.
        self.listening: set[Call | Errand[Any]] = set()
        self.num_cancelled = 0
        self.step_seconds = 0.05  # smoothed
        self.seconds_per_request = 1.0  # smoothed, from submission to the end
        self._calls: dict[int, Call] = {}
        self._started: dict[int, float] = {}
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._num_submitted = 0  # jobs in the inbox
        self._queued_tokens = 0  # their prompts
        self._stop = False
        self._closed = False  # work that is posted now will not be done
        self._aborted: ApiError | None = None
        self._thread = threading.Thread(target=self._run, name="coterie-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End after the current step; unfinished calls receive an error."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    @property
    def started(self) -> bool:
        return self._thread.ident is not None

    @property
    def alive(self) -> bool:
        return self.failure is None and self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        """Jobs that wait for a place in the batch."""
        return self._num_submitted + len(self.engine.waiting)

    def submit(self, jobs: Sequence[Job]) -> Call:
        """Queue the jobs of one request, all or none.

        Errors: `ApiError` 429 when the queue is full, 503 when draining or after a failure.
        """
        if not self.alive:
            raise self._ended()
        if self.refusing:
            raise draining()
        tokens = sum(len(job.prompt) for job in jobs)
        waiting = self.num_waiting
        room = self.engine.max_batch + self.max_queue - self.engine.num_in_front - waiting
        # A request larger than the whole queue is accepted when nothing else waits, because otherwise it
        # could never be accepted.
        queued = self._queued_tokens + sum(one.num_prompt for one in self.engine.waiting)
        crowded = len(jobs) > room or queued + tokens > self.max_queued_tokens
        if crowded and (waiting or room <= 0):
            raise ApiError(
                429, f"the queue is full ({waiting} requests wait); try again later", "queue_full",
                retry_after=min(self.seconds_per_request, 120.0),
            )  # fmt: skip
        call = Call(self, [_placed(job) for job in jobs])
        self._count(len(call.jobs), tokens)
        if not self._post(lambda: self._add(call)):
            raise self._ended()
        return call

    def cancel(self, call: Call, index: int | None) -> None:
        """Drop a call's jobs before the next step."""
        self._post(lambda: self._cancel(call, index))

    async def run(self, function: Callable[[], T], deadline: float = math.inf) -> T:
        """Run a function on the engine's thread between two steps and return its result.

        Errors: any exception of the function; `ApiError` when `deadline` (monotonic) has passed, the engine
        has failed or the server ends.
        """
        errand = Errand(function)
        self.listen(errand)
        try:
            if not self.alive or not self._post(errand.do):
                errand.push(self._ended())
            return await errand.result(deadline)
        finally:
            self.listening.discard(errand)

    def abort(self, error: ApiError) -> None:
        """Fail all current and future waiters with `error` immediately, without waiting for the running step.

        Call it in the event loop.
        """
        self._aborted = error
        for waiting in self.listening:
            waiting.push(error)

    def listen(self, waiting: Call | Errand[Any]) -> None:
        """Register a call or errand that a coroutine waits for. Call it in the event loop."""
        self.listening.add(waiting)
        if self._aborted is not None:
            waiting.push(self._aborted)

    def _post(self, work: Callable[[], None]) -> bool:
        """Queue work for the thread. Returns False when the thread is ending and will not do it."""
        with self._wake:
            if not self._closed:
                self._inbox.append(work)
                self._wake.notify()
            return not self._closed

    def _count(self, jobs: int, tokens: int) -> None:
        with self._wake:  # the event loop and the engine's thread both change these counts
            self._num_submitted += jobs
            self._queued_tokens += tokens

    def _add(self, call: Call) -> None:
        left = deque(call.jobs)  # each job counts as submitted until it counts as waiting
        try:
            if call.cancelled:
                self.num_cancelled += 1
                return
            for index, job in enumerate(call.jobs):
                request_id = self.engine.add(job.prompt, job.params, job.options)
                call.ids[request_id] = index
                self._calls[request_id] = call
                self._started[request_id] = time.monotonic()
                self._count(-1, -len(left.popleft().prompt))
        except Exception as error:
            self._fail([call], error)
        except BaseException:  # ends the thread, before `_calls` knows this call
            self._fail([call], engine_dead())
            raise
        finally:
            self._count(-len(left), -sum(len(job.prompt) for job in left))

    def _cancel(self, call: Call, index: int | None) -> None:
        wanted = [i for i, job in call.ids.items() if index is None or job == index]
        dropped = [i for i in wanted if self.engine.cancel(i, keep=index is not None)]
        self._forget(wanted)
        call.unfinished -= len(dropped)
        if dropped and index is None:
            self.num_cancelled += 1

    def _fail(self, calls: list[Call], error: Exception) -> None:
        for call in calls:
            for request_id in call.ids:
                self.engine.cancel(request_id)
            self._forget(call.ids)
            call.unfinished = 0
            call.push(error)

    def _forget(self, request_ids: Iterable[int]) -> None:
        for request_id in request_ids:
            self._calls.pop(request_id, None)
            self._started.pop(request_id, None)

    def _run(self) -> None:
        try:
            while not self._stop:
                with self._wake:
                    while not (self._inbox or self._stop or self.engine.busy):
                        self._wake.wait()
                # Only the work that is here now: work that posts itself again must not delay the step.
                for _ in range(len(self._inbox)):
                    self._inbox.popleft()()
                if self.engine.busy and not self._stop:
                    self._step()
        except BaseException as error:
            self.failure = error
            log.error("engine: stopped by %s: %s", type(error).__name__, error, exc_info=error)
        finally:
            self._end()

    def _ended(self) -> ApiError:
        return engine_dead() if self.failure is not None else draining()

    def _end(self) -> None:
        self.refusing = True
        with self._wake:
            self._closed = True
        while self._inbox:  # work that was posted too late must receive its error too
            try:
                self._inbox.popleft()()
            except Exception as late:
                log.warning("engine: %s", late)
        self._fail(list(set(self._calls.values())), self._ended())
        if self.failure is not None:
            self.on_failure()

    def _step(self) -> None:
        start = time.monotonic()
        try:
            events = self.engine.step()
        except Exception as error:
            # The engine has dropped the sequences of this pass and remains usable, unless it dropped none or
            # the device has failed, which fails every later pass too.
            lost = {call for request_id, call in self._calls.items() if request_id not in self.engine}
            if not lost or isinstance(error, torch.AcceleratorError):
                raise
            self._fail(list(lost), error)
            return
        end = time.monotonic()
        self.step_seconds += 0.1 * (end - start - self.step_seconds)
        batches: dict[Call, CallEvents] = {}
        for event in events:
            call = self._calls.get(event.request)
            if call is None:
                continue
            if event.failure is not None:
                self._fail([call], event.failure)
                batches.pop(call, None)
                continue
            batches.setdefault(call, []).append((call.ids[event.request], event))
            if event.finish_reason is not None:
                del self._calls[event.request]
                seconds = end - self._started.pop(event.request)
                self.seconds_per_request += 0.1 * (seconds - self.seconds_per_request)
                call.unfinished -= 1
        hand_out(batches)

    def progress(self, call: Call) -> tuple[int, int]:
        """(prompt tokens read, prompt tokens) of a call's running sequences, for keep-alive comments."""
        ids: Any = set(call.ids)
        read = [
            (min(length, total), total) for request, length, total in self.engine.progress() if request in ids
        ]
        # A reply that has just finished is no longer in the engine: never report less than before.
        call.num_read = max(call.num_read, sum(a for a, _ in read))
        return call.num_read, sum(b for _, b in read) or sum(len(job.prompt) for job in call.jobs)
