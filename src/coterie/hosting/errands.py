"""Work of coroutines for the engine's thread, and the way of its result back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from coterie.hosting.errors import too_slow

T = TypeVar("T")


class Errand(Generic[T]):
    """A function to run on the engine's thread between two steps, and a future for its result."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[T] = self._loop.create_future()

    async def result(self, deadline: float) -> T:
        """Wait for the function's result.

        Errors: any exception of the function; `ApiError` when `deadline` (monotonic) has passed or the thread
        has ended.
        """
        try:
            await asyncio.wait({self._result}, timeout=deadline - time.monotonic())
            if not self._result.done():
                raise too_slow()
            return self._result.result()
        finally:
            self._result.cancel()

    def do(self) -> None:
        """Run the function, unless nobody waits any longer. Called on the engine's thread."""
        if self._result.done():
            return
        try:
            value = self._function()
        except Exception as error:
            self.push(error)
        else:
            self._settle(lambda: self._result.set_result(value))

    def push(self, error: Exception) -> None:
        """Make `result` raise this error. Callable from any thread."""
        self._settle(lambda: self._result.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(lambda: None if self._result.done() else settle())
        except RuntimeError:  # the loop is closed: nobody waits any longer
            pass
