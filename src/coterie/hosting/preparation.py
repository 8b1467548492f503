"""Work on a request before it reaches the engine: reading its body, rendering, tokenising, grammars.

Python cannot end a running thread, so what nobody waits for any longer is bounded instead: a queue that a
client leaves by hanging up, few threads, lanes, so that large bodies never stand before small ones, and a
limit to the work that its client has left and that no longer keeps its place from others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from coterie.hosting.errors import ApiError

T = TypeVar("T")
SMALL = 64 * 1024  # bytes of a body; up to here reading it may hold up the event loop
# (largest body, threads): most requests are small; a few threads leave the processor to the engine.
_LANES = ((SMALL, 4), (2**20, 2), (2**62, 1))


_LEFT = 2  # places that left work may have given back, as a multiple of the threads


class Lane:
    """Some threads and the requests that wait for one. Belongs to the event loop."""

    def __init__(self, threads: int) -> None:
        self._most_left = _LEFT * threads
        self._pool = ThreadPoolExecutor(threads + self._most_left, "coterie-prepare")
        self._free = asyncio.Semaphore(threads)
        self.num_waiting = 0
        self.num_left = 0  # works that go on although their clients have left

    async def run(self, work: Callable[[], T], most_waiting: int) -> T:
        """The result of `work` in a thread. Cancelled, it leaves the queue; running work goes on unheard.

        Errors: any exception of `work`; `ApiError` 429 when `most_waiting` requests wait already.
        """
        if self._free.locked() and self.num_waiting >= most_waiting:
            raise ApiError(429, "too many requests wait to be read; try again later", "queue_full",
                           retry_after=1.0)  # fmt: skip
        self.num_waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.num_waiting -= 1
        running = self._pool.submit(work)
        ended = asyncio.wrap_future(running)
        try:
            return await asyncio.shield(ended)
        finally:
            if ended.done():
                self._free.release()
            else:
                early = self.num_left < self._most_left
                self.num_left += early
                if early:
                    self._free.release()
                ended.add_done_callback(lambda ended: self._over(ended, early))

    def _over(self, ended: asyncio.Future[T], early: bool) -> None:
        """Left work has ended. `early`: its place was given back when its client left."""
        self.num_left -= early
        if not early:
            self._free.release()
        if not ended.cancelled():
            ended.exception()  # nobody else looks at it

    def close(self) -> None:
        """End the threads after the running work."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Preparations:
    """The lanes of a server. `most_waiting`: requests that may wait in each of them."""

    def __init__(self, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self._lanes = [(largest, Lane(threads)) for largest, threads in _LANES]

    async def run(self, work: Callable[[], T], size: int) -> T:
        """The result of `work` for a body of `size` bytes. Errors: as `Lane.run`."""
        lane = next(lane for largest, lane in self._lanes if size <= largest)
        return await lane.run(work, self._most_waiting)

    def close(self) -> None:
        """End the threads after the running work."""
        for _, lane in self._lanes:
            lane.close()
