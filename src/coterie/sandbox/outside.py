"""The outside of the sandbox: starts Python programs confined by the kernel, collects what they print.

A program is one process without network, other processes, threads, outside files or inherited environment.
Its memory, CPU time, wall time, output and disk are limited. `inside.py` runs in that process and confines
it. A machine on which a probe escapes runs no programs.
"""

from __future__ import annotations

import json
import os
import platform
import select
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coterie.config.errors import CoterieError
from coterie.sandbox.inside import ALLOWED, AUDIT_ARCH, INSTALLED, PARTLY, collect

INSIDE = Path(__file__).with_name("inside.py")
# Folders of shared libraries, and other files of the system that programs read.
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
OTHERS = ("/usr/lib/locale", "/usr/share/zoneinfo", "/etc/ld.so.cache")
_SETUP_SECONDS = 20.0
Ending = Literal["done", "failed", "time", "output"]


class SandboxError(CoterieError):
    """This machine cannot confine a program; the message names the missing layer."""


@dataclass(frozen=True)
class Limits:
    """Wall-clock seconds, bytes of memory, of output (both streams together), and of files written."""

    seconds: float = 10.0
    memory: int = 512 * 2**20
    output: int = 64 * 2**10
    disk: int = 64 * 2**20


@dataclass(frozen=True)
class Finished:
    """How a program ended: by itself (`done`; `failed` for a status other than 0), by `time` or `output`."""

    ending: Ending
    status: int
    stdout: str
    stderr: str
    seconds: float


class Sandbox:
    """Runs programs. Call `probe` first: it proves the confinement on this machine.

    `layers`, known after `probe`: which of namespaces, tmpfs (programs can write, into memory), landlock,
    bwrap and seccomp hold.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.layers: tuple[str, ...] = ()

    def probe(self) -> tuple[str, ...]:
        """Try to escape in every way that must be closed; returns the layers that hold.

        Errors: `SandboxError`, one line, naming each way that was open.
        """
        if not sys.platform.startswith("linux"):
            raise SandboxError(
                f"sandbox: {sys.platform} has no Landlock and seccomp; programs can be run on Linux only"
            )
        with tempfile.TemporaryDirectory(prefix="coterie-probe-") as folder:
            canary = Path(folder, "canary")
            canary.write_text("still here")
            canary.chmod(0o666)
            values = {
                "canary": str(canary),
                "folder": folder,
                "parent": os.getpid(),
                "memory": self.limits.memory,
                "calls": _refused_calls(),
            }
            result = self.run(f"VALUES = {values!r}\n{_PROBE}")
            try:
                escaped = json.loads(result.stdout)
            except ValueError:
                raise SandboxError(f"sandbox: the probe did not finish: {_last(result.stderr)}") from None
            if os.listdir(folder) != ["canary"] or canary.read_text() != "still here":
                escaped.append("a file outside was changed")
        looped = self.run("while True: pass", seconds=0.3)
        if looped.ending != "time":
            escaped.append("an endless program was not ended")
        if escaped:
            raise SandboxError(
                f"sandbox: programs can escape on this machine: {'; '.join(escaped)}; none are run"
            )
        return self.layers

    def run(self, program: str, seconds: float | None = None) -> Finished:
        """Run a Python program to its end or to a limit. `seconds`: wall time, by default the limit's.

        Errors: `SandboxError` when a required layer is missing; the program has then not run.
        """
        seconds = self.limits.seconds if seconds is None else min(seconds, self.limits.seconds)
        with tempfile.TemporaryDirectory(prefix="coterie-run-") as folder:
            source, work = Path(folder, "source.py"), Path(folder, "work")
            source.write_text(program, encoding="utf-8", errors="surrogatepass")
            work.mkdir()
            reading, writing = os.pipe()
            try:
                process = self._start(source, work, writing, seconds)
            finally:
                os.close(writing)
            select.select([reading], [], [], _SETUP_SECONDS)  # confining itself is not the program's time
            started = time.monotonic()
            try:
                streams, ending = self._collect(process, reading, started + seconds)
            finally:
                process.kill()
                process.wait()
                os.close(reading)
            errors = streams[process.stderr.fileno()]  # type: ignore[union-attr]
            if ending == "time" and not streams[reading]:
                errors = b"it took longer than %g s; try again when the machine is less busy" % (
                    _SETUP_SECONDS + seconds
                )
            self._check_status(streams[reading], errors)
            texts = [
                streams[pipe.fileno()].decode("utf-8", "replace")
                for pipe in (process.stdout, process.stderr)
                if pipe
            ]
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            if ending is None:
                ending = "done" if process.returncode == 0 else "failed"
            return Finished(ending, process.returncode, texts[0], texts[1], time.monotonic() - started)

    def _start(self, source: Path, work: Path, status: int, seconds: float) -> subprocess.Popen[bytes]:
        command, settings = sandbox_command(INSIDE, work, self.limits, seconds, [str(source.resolve())])
        return subprocess.Popen(
            [*command, json.dumps({**settings, "program": str(source), "status": status})],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=work,
            env={},
            pass_fds=[status],
            start_new_session=True,
        )

    def _collect(
        self, process: subprocess.Popen[bytes], status: int, end: float
    ) -> tuple[dict[int, bytes], Ending | None]:
        """The bytes from each descriptor up to a limit, and which limit (output or time) was reached, if any.

        `end`: a time of `time.monotonic`.
        """
        assert process.stdout is not None and process.stderr is not None
        pipes = [status, process.stdout.fileno(), process.stderr.fileno()]
        got, ending = collect(pipes, end, self.limits.output, {status})
        if ending == "output":
            return {pipe: data[: self.limits.output] for pipe, data in got.items()}, "output"
        if ending == "time":
            return got, "time"
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return got, "time"
        return got, None

    def _check_status(self, said: bytes, errors: bytes) -> None:
        try:
            status = json.loads(said)
        except ValueError:
            raise SandboxError(
                f"sandbox: it could not be set up: {_last(errors.decode(errors='replace'))}"
            ) from None
        self.layers = tuple(status["layers"])
        if not status["safe"]:
            missing = "seccomp" if "seccomp" not in self.layers else "Landlock (Linux 5.13) or bubblewrap"
            raise SandboxError(f"sandbox: this machine lacks {missing}; programs are not run")


def sandbox_command(
    inside: Path, work: Path, limits: Limits, seconds: float, readable: Sequence[str] = ()
) -> tuple[list[str], dict[str, Any]]:
    """The command that starts `inside` (its settings, as JSON, come last), and the settings that both share.

    `readable`: files that the program may read besides Python's own.
    """
    modules = sorted({str(Path(sysconfig.get_path(kind)).resolve()) for kind in ("stdlib", "platstdlib")})
    libraries = [*LIBRARIES, str(Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib").resolve())]
    others = [*OTHERS, *readable]
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    shown = [*libraries, *modules, *others]
    prefix, layers = _bubblewrap(shown, modules, [python, str(inside), str(INSIDE)], work, limits.disk)
    settings = {
        "work": str(work),
        "libraries": libraries,
        "modules": modules,
        "others": others,
        "layers": layers,
        "seconds": int(seconds) + 2,
        "memory": limits.memory,
        "disk": limits.disk,
    }
    return [*prefix, python, "-I", "-S", "-B", str(inside)], settings


def _bubblewrap(
    readable: list[str], modules: list[str], started: list[str], work: Path, disk: int
) -> tuple[list[str], list[str]]:
    """A command to put before Python, and its layer; both empty unless bubblewrap has to replace Landlock.

    The program can read `readable` and `started`, except packages installed among `modules`, and write to
    `work` alone, which holds `disk` bytes.
    """
    program = shutil.which("bwrap")
    if program is None or _landlock_version() >= 1:
        return [], []
    binds = [part for path in [*readable, *started] for part in ("--ro-bind-try", path, path)]
    binds += [part for path in ("/dev/null", "/dev/urandom") for part in ("--dev-bind", path, path)]
    installed = {Path(folder, name).resolve() for folder in modules for name in INSTALLED}
    installed |= {path.resolve() for folder in LIBRARIES for path in Path(folder).glob("python*/*-packages")}
    for path in sorted(path for path in installed if path.is_dir()):
        binds += ["--tmpfs", str(path)]
    place = ["--size", str(disk), "--tmpfs", str(work), "--chdir", str(work), "--remount-ro", "/"]
    return [program, "--unshare-all", "--die-with-parent", "--clearenv", *binds, *place, "--"], ["bwrap"]


def _refused_calls() -> list[int]:
    """Numbers of system calls that the filter must refuse here, some of future kernels included."""
    column = AUDIT_ARCH.get(platform.machine(), (0, 0))[0]
    allowed = {pair[column] for pair in (*ALLOWED.values(), *(partly[0] for partly in PARTLY.values()))}
    # Not tried: fork, vfork, vhangup and sync, which take any argument, and the calls of user probes, which
    # the kernel keeps those from every filter and answers with a fatal signal.
    untried = {"x86_64": {57, 58, 153, 162, 335, 336}, "aarch64": {58, 81}}.get(platform.machine(), set())
    return [number for number in range(1024) if number not in allowed | untried]


def _landlock_version() -> int:
    import ctypes

    return int(ctypes.CDLL(None).syscall(444, None, 0, 1))


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:200] if lines else "no reason given"


_PROBE = """
import ctypes, json, os, signal, socket, subprocess, sys, threading
escaped = []
kernel = ctypes.CDLL(None, use_errno=True)

def must_fail(what, action):
    try:
        action()
    except (OSError, RuntimeError, MemoryError):
        return
    escaped.append(what)

def write(path):
    with open(path, "w") as file:
        file.write("changed")

outside = VALUES["canary"]
must_fail("the network can be reached", lambda: socket.create_connection(("127.0.0.1", 9), 0.2))
must_fail("sockets can be made", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
must_fail("files outside can be read", lambda: open(outside).read())
must_fail("files outside can be written", lambda: write(outside))
must_fail("files outside can be cut", lambda: os.truncate(outside, 0))
must_fail("attributes of files outside can be read", lambda: os.listxattr(outside))
must_fail("files outside can be made", lambda: write(os.path.join(VALUES["folder"], "new")))
must_fail("files outside can be removed", lambda: os.unlink(outside))
must_fail("modes of files outside can be changed", lambda: os.chmod(outside, 0o777))
must_fail("folders outside can be listed", lambda: os.listdir(VALUES["folder"]))
must_fail("processes can be seen", lambda: os.listdir("/proc"))
must_fail("other processes can be seen", lambda: os.getsid(VALUES["parent"]))
must_fail("processes can be made", lambda: os._exit(0) if os.fork() == 0 else None)
must_fail("programs can be started", lambda: subprocess.run(["/bin/true"]))
must_fail("threads can be made", lambda: threading.Thread(target=int).start())
must_fail("other processes can be signalled", lambda: os.kill(VALUES["parent"], 0))
must_fail("memory is not limited", lambda: bytearray(VALUES["memory"]))
for module in set(sys.path):
    for packages in ("site-packages", "dist-packages"):
        must_fail("installed packages can be seen", lambda: os.listdir(os.path.join(module, packages)))
# All arguments are -1, which almost no call takes, so that a call which is open by mistake does nothing.
for number in VALUES["calls"]:
    ctypes.set_errno(0)
    if kernel.syscall(number, -1, -1, -1, -1, -1, -1) != -1 or ctypes.get_errno() not in (1, 38):
        escaped.append(f"system call {number} is open")
        break
print(json.dumps(escaped))
"""
