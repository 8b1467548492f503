"""Calls of functions that a model wrote: many short programs, each in its own confined process.

The processes are forks of an interpreter that is loaded once (`caller_inside.py`), because starting one for
each would take most of the time. Arguments go in, plain values come back; whoever compares them does it here.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coterie.sandbox.outside import Limits, Sandbox, SandboxError, sandbox_command

INSIDE = Path(__file__).with_name("caller_inside.py")
_PATIENCE = 30.0  # seconds in which a loaded interpreter must answer beyond the program's own limit
LIMITS = Limits(seconds=2.0, memory=256 * 2**20)


@dataclass(frozen=True)
class Submission:
    """Source code, the function in it, and the arguments of each call (JSON types)."""

    code: str
    name: str
    calls: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Returned:
    """What came of a submission: a value per call, or why there is none.

    `values[i]` is `("value", result)` or `("error", line)`. `failed`: this machine did not run it, which says
    nothing about the submission.
    """

    values: tuple[tuple[str, Any], ...] = ()
    why: str = ""
    failed: bool = False


class Caller:
    """Loaded interpreters, `workers` of them, and the queue in front of them. Close it after use.

    Errors: `SandboxError`, one line, at the first use on a machine that cannot confine programs.
    """

    def __init__(self, limits: Limits = LIMITS, workers: int | None = None) -> None:
        self.limits = limits
        self.workers = workers or max(1, min(8, os.cpu_count() or 1))
        self.layers: tuple[str, ...] = ()
        self._idle: queue.SimpleQueue[_Interpreter | None] = queue.SimpleQueue()
        for _ in range(self.workers):
            self._idle.put(None)
        self._probed = False
        # The kernel ends an interpreter with the thread that started it, so the threads stay.
        self._threads = ThreadPoolExecutor(self.workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the interpreters."""
        for _ in range(self.workers):
            interpreter = self._idle.get()
            if interpreter is not None:
                interpreter.end()
            self._idle.put(None)
        self._threads.shutdown()

    def run_all(self, submissions: Sequence[Submission]) -> list[Returned]:
        """The results, in order. Errors: `SandboxError` where no program can be confined."""
        if not self._probed:
            Sandbox(self.limits).probe()
            self._probed = True
        return list(self._threads.map(self._run, submissions))

    def _run(self, submission: Submission) -> Returned:
        interpreter = self._idle.get()
        kept: _Interpreter | None = None
        try:
            interpreter = interpreter or _Interpreter(self.limits)
            said = interpreter.ask(submission, self.limits.seconds)
            if not said["safe"]:
                return Returned(why="the confinement of the process failed", failed=True)
            self.layers = tuple(said["layers"])
            kept = interpreter
            return _read(said, len(submission.calls))
        except (OSError, ValueError, KeyError, SandboxError) as error:
            return Returned(why=f"the sandbox failed: {type(error).__name__}: {error}"[:200], failed=True)
        finally:
            if kept is None and interpreter is not None:
                interpreter.end()
            self._idle.put(kept)


def _read(said: dict[str, Any], count: int) -> Returned:
    """What a child's own words amount to. They are the program's: nothing in them is trusted."""
    if said["ending"] != "done":
        return Returned(
            why={"time": "it took too long", "output": "its results are too long"}[said["ending"]]
        )
    try:
        data = json.loads(said["data"])
        if isinstance(data, dict) and isinstance(data.get("error"), str):
            return Returned(why=data["error"][:200])
        values = tuple((str(kind), value) for kind, value in data["results"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return Returned(why="it ended without a result")
    return (
        Returned(values) if len(values) == count else Returned(why="it ended without a result for each call")
    )


class _Interpreter:
    """One loaded interpreter, with a folder that is its root."""

    def __init__(self, limits: Limits) -> None:
        self._folder = tempfile.mkdtemp(prefix="coterie-call-")
        try:
            command, settings = sandbox_command(INSIDE, Path(self._folder), limits, limits.seconds)
            self._process = subprocess.Popen(
                [*command, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self._folder,
                env={},
                start_new_session=True,
            )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def ask(self, submission: Submission, seconds: float) -> dict[str, Any]:
        """The answer to one request. Errors: `OSError`, `ValueError` when the interpreter does not answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {
            "code": submission.code,
            "name": submission.name,
            "calls": [list(call) for call in submission.calls],
            "seconds": seconds,
        }
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        end, line = time.monotonic() + seconds + _PATIENCE, b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not piece:
                raise OSError("the loaded interpreter does not answer")
            line += piece
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("the loaded interpreter answers with no object")
        return answer

    def end(self) -> None:
        """Kill it and remove its folder."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
