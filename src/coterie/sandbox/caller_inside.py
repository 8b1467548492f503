"""A program that stays loaded and runs functions of others, each in another confined process.

It is started with `python -I -S caller_inside.py SETTINGS`, enters its own root once, and then reads one
request per line: `{"code", "name", "calls", "seconds"}`. For each it forks; the child confines itself as
`inside.py` does, without any place to write, and calls the function. The answer is one line: `{"layers",
"safe", "ending", "data"}`, where `data` is what the child wrote. The child knows the arguments and nothing of
the values that are expected.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import sys
import time
from types import ModuleType
from typing import Any

_LONGEST = 2**20  # bytes of a child's results


def _inside() -> ModuleType:
    """The module `inside.py`, in the folder of this file; packages cannot be imported here."""
    spec = importlib.util.spec_from_file_location(
        "inside", os.path.join(os.path.dirname(__file__), "inside.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _plain(value: Any, depth: int = 0) -> Any:
    """The value in JSON's types alone: exact types, so that no method of a class of the program is called."""
    if type(value) in (int, float, str, bool, type(None)):
        return value
    if type(value) in (list, tuple) and depth < 20:
        return [_plain(item, depth + 1) for item in value]
    if type(value) is dict and depth < 20:
        return {str(key): _plain(item, depth + 1) for key, item in value.items() if type(key) is str}
    raise TypeError(f"a value of type {type(value).__name__}")


def _call_all(code: str, name: str, calls: list[list[Any]]) -> list[list[Any]]:
    """`["value", result]` or `["error", line]` for each call."""
    scope: dict[str, Any] = {"__name__": "submission"}
    exec(compile(code, "submission", "exec"), scope)
    function = scope[name]
    results: list[list[Any]] = []
    for arguments in calls:
        try:
            results.append(["value", _plain(function(*arguments))])
        except Exception as error:
            results.append(["error", f"{type(error).__name__}: {error}"[:200]])
    return results


def _child(
    inside: ModuleType, settings: dict[str, Any], entered: list[str], status: int, result: int
) -> None:
    """The life of one confined process; it never returns."""
    try:
        request = settings.pop("request")
        null = os.open("/dev/null", os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        inside.libc.prctl(1, 9, 0, 0, 0)  # die with the parent
        layers = entered + inside.confine({**settings, "disk": 0}, False)  # no byte of any file
        safe = inside.is_safe(layers)
        os.write(status, json.dumps({"layers": layers, "safe": safe}).encode())
        os.close(status)
        if safe:
            try:
                done: dict[str, Any] = {
                    "results": _call_all(request["code"], request["name"], request["calls"])
                }
            except BaseException as error:
                done = {"error": f"{type(error).__name__}: {error}"[:200]}
            os.write(result, json.dumps(done).encode("ascii", "backslashreplace"))
    finally:
        os._exit(0)


def _serve(inside: ModuleType, settings: dict[str, Any], entered: list[str], request: Any) -> dict[str, Any]:
    """The answer to one request."""
    status_end, status = os.pipe()
    result_end, result = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(status_end)
        os.close(result_end)
        _child(inside, {**settings, "request": request}, entered, status, result)
    os.close(status)
    os.close(result)
    try:
        got, ending = inside.collect(
            [status_end, result_end], time.monotonic() + request["seconds"], _LONGEST
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(status_end)
        os.close(result_end)
    try:
        said = json.loads(got[status_end])
    except ValueError:
        said = {"layers": [], "safe": False}
    return {**said, "ending": ending or "done", "data": got[result_end].decode("ascii", "replace")}


def main() -> None:
    """Answer requests until standard input ends. `caller.py` sends the settings."""
    settings = json.loads(sys.argv[1])
    inside = _inside()
    inside.libc.prctl(1, 9, 0, 0, 0)
    inside.remember_folders()
    for name in ("collections", "functools", "itertools", "math", "re", "string"):
        __import__(name)  # what programs use most is imported once
    entered = inside.enter(settings)
    for line in sys.stdin.buffer:
        answer = _serve(inside, settings, entered, json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
