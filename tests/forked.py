"""Processes that begin with their imports done: one server imports torch and coterie once, and forks.

A fresh interpreter spends two to four seconds of a processor on these imports.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any, TextIO

import pytest

_IMPORTED = [
    *("pytest", "coterie.recipes.train", "coterie.serve.server"),
    # Where the functions are that begin here.
    *("tests.checkpoints.test_commit", "tests.cli.test_train", "tests.hosting.test_state_store"),
    *("tests.machine.test_processes", "tests.recipes.test_codistil", "tests.serve.test_server"),
    "tests.train.test_equivalence",
]


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


class Forked:
    """`work(*given)` in another process, whose output is in `stdout` and `stderr`.

    `work` is a function of a module. The process has the environment of this one and one thread of torch.
    """

    def __init__(self, work: Callable[..., Any], *given: Any) -> None:
        context = _context()
        ours_out, theirs_out = context.Pipe(duplex=False)
        ours_err, theirs_err = context.Pipe(duplex=False)
        handed = (theirs_out, theirs_err, dict(os.environ), work, given)
        self._process = context.Process(target=_run, args=handed, daemon=True)
        self._process.start()
        theirs_out.close()
        theirs_err.close()
        self.stdout, self.stderr = _text(ours_out), _text(ours_err)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, or that of the signal that ended it as a negative number; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 60) -> int:
        """The exit code."""
        self._process.join(seconds)
        code = self._process.exitcode
        assert code is not None, "the process has not ended in time"
        return code

    def kill(self) -> int:
        """End it at once, if it has not ended; the exit code."""
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)
        return self.wait()


def _text(connection: Connection) -> TextIO:
    descriptor = os.dup(connection.fileno())
    connection.close()
    return os.fdopen(descriptor, encoding="utf-8")


def _run(
    out: Connection,
    err: Connection,
    environment: dict[str, str],
    work: Callable[..., Any],
    given: tuple[Any, ...],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, connection in ((1, out), (2, err)):
        os.dup2(connection.fileno(), number)
        connection.close()
    work(*given)
