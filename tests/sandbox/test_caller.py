"""Functions of others run in processes of their own: what they can do, and that none of it is a value."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from coterie.sandbox.caller import Caller, Returned, Submission
from coterie.sandbox.outside import Limits, SandboxError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox needs Linux")


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    """One loaded interpreter; skips if the kernel lacks a required layer."""
    with Caller(Limits(seconds=0.7, memory=256 * 2**20), workers=1) as made:
        try:
            made.run_all([])
        except SandboxError as error:
            pytest.skip(str(error))
        yield made


def one(caller: Caller, code: str, *calls: list[object]) -> Returned:
    """What comes of one submission."""
    return caller.run_all([Submission(code, "f", calls or ([1],))])[0]


def test_values_come_back_as_plain_ones(caller: Caller) -> None:
    code = "import math\ndef f(v, w=0):\n    return {'a': (v, w)}"
    assert one(caller, code, [1], [[2], "x"]).values == (
        ("value", {"a": [1, 0]}),
        ("value", {"a": [[2], "x"]}),
    )
    assert {"landlock", "seccomp"} <= set(caller.layers) or {"bwrap", "seccomp"} <= set(caller.layers)
    raised = one(caller, "def f(v):\n    return 1 // v", [0], [1])
    assert raised.values == (("error", "ZeroDivisionError: integer division or modulo by zero"), ("value", 1))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; os._exit(0)", "it ended without a result"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("def f(v:", "SyntaxError"),
        ("x = 1", "KeyError: 'f'"),
        ("while True: pass", "it took too long"),
        ("import os; os.fork()", "PermissionError"),
        ("import os; os.kill(os.getppid(), 9)", "PermissionError"),
        ("raise BaseException('x')", "BaseException: x"),
        ("import socket; socket.socket()", "PermissionError"),
        ("open('x', 'w').write('x')", "Error"),
        ("open('/etc/passwd').read()", "Error"),
        ("import os\n[os.write(i, b'{}') for i in (4, 5, 6, 7, 8)]; os._exit(0)", ""),
        ("import os\n[os.close(i) for i in range(3, 64)]", ""),
        ("import json\njson.dumps = None\ndef f(v): return 1", "it ended without a result"),
    ],
)
def test_no_way_out_and_no_value(caller: Caller, code: str, why: str) -> None:
    returned = one(caller, code)
    assert returned.values == () and why in returned.why and not returned.failed, returned
    assert one(caller, "def f(v): return v").values == (("value", 1),)  # the next one is not touched


@pytest.mark.parametrize(
    "value", ["type('A', (int,), {'__eq__': lambda s, o: True})(1)", "object()", "{1}", "b'x'", "f"]
)
def test_only_plain_values_are_values(caller: Caller, value: str) -> None:
    ((kind, said),) = one(caller, f"def f(v): return {value}").values
    assert kind == "error" and said.startswith("TypeError: a value of type")


def test_one_submission_leaves_nothing_for_the_next(caller: Caller) -> None:
    one(
        caller,
        "import math; math.pi = 3\ntry: open('x', 'w').write('x')\nexcept OSError: pass\ndef f(v): return 1",
    )
    found = one(caller, "import math, os\ndef f(v): return [math.pi > 3.1, 'x' in os.listdir('.')]")
    assert found.values[0][0] == "error" or found.values[0][1] == [True, False], found


def test_too_much_memory_or_output(caller: Caller) -> None:
    assert one(caller, "def f(v): return 'x' * 10**10").values[0][1].startswith("MemoryError")
    assert one(caller, "def f(v): return 'x' * 3 * 10**6").why == "its results are too long"


def test_a_lost_interpreter_is_no_verdict(caller: Caller) -> None:
    interpreter = caller._idle.get()
    assert interpreter is not None
    interpreter._process.kill()
    caller._idle.put(interpreter)
    lost = one(caller, "def f(v): return v")
    assert lost.failed and lost.why.startswith("the sandbox failed: ")
    assert one(caller, "def f(v): return v").values == (("value", 1),)
