"""Every known way out of the sandbox, tried for real; a machine that cannot confine runs nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from coterie.sandbox import inside, outside
from coterie.sandbox.outside import Limits, Sandbox, SandboxError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox needs Linux")


@pytest.fixture(scope="module")
def box() -> Sandbox:
    """A sandbox whose probe passed; skips if the kernel lacks a required layer."""
    made = Sandbox(Limits(seconds=5.0, memory=256 * 2**20, output=4096, disk=4 * 2**20))
    try:
        made.probe()
    except SandboxError as error:
        pytest.skip(str(error))
    return made


def test_what_a_program_may_do(box: Sandbox) -> None:
    program = """
import collections, datetime, decimal, json, math, os, random, re, sqlite3, statistics, sys
open("a.txt", "w").write("kept")
os.mkdir("d"); os.rename("a.txt", "d/b.txt")
print(math.factorial(20), open("d/b.txt").read(), sorted(os.listdir(".")), len(sys.argv))
print("to the side", file=sys.stderr)
"""
    result = box.run(program)
    assert result.stdout == "2432902008176640000 kept ['d', 'program.py'] 1\n", result.stderr
    assert (result.ending, result.status, result.stderr) == ("done", 0, "to the side\n")
    assert box.run("import sys; sys.exit(3)").status == 3
    failed = box.run("def f():\n    return 1 / 0\nf()")
    assert failed.ending == "failed" and "ZeroDivisionError" in failed.stderr
    assert "inside.py" not in failed.stderr


CALL = "import ctypes; assert ctypes.CDLL(None).syscall({}, -1, -1, -1, -1) != -1"
ESCAPES = {
    "network": "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
    "unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "socket pair": "import socket; socket.socketpair()",
    "shadow": "print(open('/etc/shadow').read())",
    "passwd": "print(open('/etc/passwd').read())",
    "environment of the parent": "import os; print(open(f'/proc/{os.getppid()}/environ').read())",
    "home": "import os; print(os.listdir('/root'))",
    "link out": "import os; os.symlink('/etc/passwd', 'l'); print(open('l').read())",
    "hard link out": "import os; os.link('/etc/passwd', 'l')",
    "fork": "import os; print(os.fork())",
    "fork bomb": "import os\nwhile True: os.fork()",
    "thread": "import threading; threading.Thread(target=print).start()",
    "program": "import subprocess; print(subprocess.run(['/bin/echo', 'out'], capture_output=True).stdout)",
    "exec": "import os; os.execv('/bin/sh', ['sh', '-c', 'echo out'])",
    "kill": "import os; os.kill(os.getppid(), 9)",
    "limits of the parent": "import os, resource as r; r.prlimit(os.getppid(), r.RLIMIT_NOFILE, (1, 1))",
    "higher limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "signal by owner": "import fcntl, os; r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())",
    "memory": "x = bytearray(10**9)",
    "disk": "for i in range(99):\n    open(f'f{i}', 'wb').write(bytes(10**6))",
    "mode": "import os; os.chmod('/tmp', 0o777)",
    "times": "import os; os.utime('/tmp')",
    "mount": "import ctypes; l = ctypes.CDLL(None)\nassert l.mount(b'a', b'/tmp', b'tmpfs', 0, None) == 0",
    "namespace": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "trace": "import ctypes, os; assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
    "memory file": "import os; os.memfd_create('x')",
    "attributes of a file": "import os; print(os.listxattr('/usr/lib'))",
    "attributes by a new call": CALL.format(469),
    "a call of the future": CALL.format(900),
    "asynchronous files": CALL.format(206),
    "timers": CALL.format(222),
    "sessions of others": "import os; os.getsid(os.getppid())",
    "priority of others": "import os; os.getpriority(os.PRIO_PROCESS, os.getppid())",
    "processors of others": "import os; os.sched_getaffinity(os.getppid())",
    "entropy": "import fcntl; fcntl.ioctl(open('/dev/urandom'), 0x5204)",
    "installed packages": "import os; print(os.listdir(PACKAGES))",
    "an installed package": "import sys; sys.path.append(PACKAGES); import pip",
    "other numbering": "import ctypes; assert ctypes.CDLL(None).syscall(0x40000000 + 57) >= 0",
}


@pytest.mark.parametrize("way", ESCAPES)
def test_ways_out_are_closed(way: str, box: Sandbox) -> None:
    packages = str(Path(sysconfig.get_path("stdlib")).resolve() / "site-packages")
    result = box.run(f"PACKAGES = {packages!r}\n{ESCAPES[way]}\nprint('out')")
    assert result.ending == "failed" and "out" not in result.stdout.split(), result
    assert result.seconds < 4, "closed, not waited for"


def test_files_outside_stay_as_they_are(box: Sandbox, tmp_path: Path) -> None:
    """Those of the very user who runs the sandbox, which only the kernel's layers protect."""
    target = tmp_path / "mine.txt"
    target.write_text("mine")
    actions = [
        f"open({str(target)!r}, 'w')",
        f"open({str(target)!r})",
        f"import os; os.unlink({str(target)!r})",
    ]
    actions += [f"import os; os.truncate({str(target)!r}, 0)", f"import os; os.rename({str(target)!r}, 'x')"]
    actions += [f"open({str(tmp_path / 'new')!r}, 'w')", f"import os; os.mkdir({str(tmp_path / 'd')!r})"]
    for action in actions:
        assert box.run(action).ending == "failed", action
    assert target.read_text() == "mine" and os.listdir(tmp_path) == ["mine.txt"]


def test_time_and_output_end_a_program(box: Sandbox) -> None:
    started = time.monotonic()
    assert box.run("while True: pass", seconds=0.5).ending == "time"
    assert box.run("import time; time.sleep(60)", seconds=0.5).ending == "time"
    assert box.run("import os; os.close(1); os.close(2)\nwhile True: pass", seconds=0.5).ending == "time"
    flood = box.run("while True: print('x' * 1000)")
    assert flood.ending == "output" and len(flood.stdout) <= 4096
    assert time.monotonic() - started < 8


def test_a_sandbox_that_is_not_ready_in_time_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "_SETUP_SECONDS", 0.0)
    with pytest.raises(
        SandboxError, match=r"set up: it took longer than 0.001 s; try again when the machine"
    ):
        Sandbox(Limits(seconds=0.001)).run("pass")


def test_nothing_of_ours_is_inherited(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTERIE_API_KEY", "secret")
    with open(__file__) as held:
        os.set_inheritable(held.fileno(), True)
        opened = (
            "import os\nfor fd in range(3, 64):\n    try: os.fstat(fd); print(fd)\n    except OSError: pass"
        )
        assert box.run(opened).stdout == ""
    assert "secret" not in box.run("import os; print(dict(os.environ))").stdout
    assert box.run("import os; print(os.read(0, 9))").stdout == "b''\n"


@pytest.mark.parametrize("layer", ["restrict_files", "filter_calls"])
def test_a_machine_without_a_layer_is_refused(
    layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sandbox without one of its layers, as on an old kernel, runs nothing."""
    text = Path(inside.__file__).read_text().replace(f"if {layer}(", f"if not {layer}(")
    assert text != Path(inside.__file__).read_text()
    (tmp_path / "inside.py").write_text(text)
    monkeypatch.setattr(outside, "INSIDE", tmp_path / "inside.py")
    marker = "print('ran')"
    with pytest.raises(SandboxError, match=r"lacks (seccomp|Landlock)"):
        Sandbox().run(marker)


@pytest.mark.parametrize(
    ("hole", "said"),
    [
        (('"read": (0, 63)', '"read": (0, 63), "socket": (41, 198)'), "sockets can be made"),
        (('"read": (0, 63)', '"read": (0, 63), "clone": (56, 220)'), "processes can be made"),
        (('"read": (0, 63)', '"read": (0, 63), "getxattr": (191, 8)'), "system call (191|8) is open"),
        (('"unknown", "refuse")]', '"allow", "refuse")]'), None),  # the kernel does not know these calls
        (('"read": (0, 63)', '"read": (0, 63), "truncate": (76, 45)'), "system call (76|45) is open"),
        (("resource.RLIMIT_AS: memory,", ""), "memory is not limited"),
        (
            ("rules = [(path,", "rules = [('/', WORK)] + [(path,"),
            "(files outside|packages) can be (read|seen)",
        ),
    ],
)
def test_the_probe_finds_a_hole(
    hole: tuple[str, str], said: str | None, box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(inside.__file__).read_text()
    assert hole[0] in text
    text = text.replace(*hole)
    (tmp_path / "inside.py").write_text(text)
    monkeypatch.setattr(outside, "INSIDE", tmp_path / "inside.py")
    if said is None:
        assert "landlock" in Sandbox().probe()
        return
    with pytest.raises(SandboxError, match=said) as refused:
        Sandbox().probe()
    assert "\n" not in str(refused.value)


def test_without_namespaces_it_still_holds(
    box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many containers allow none: Landlock and seccomp remain, and a program cannot write at all."""
    text = Path(inside.__file__).read_text().replace("libc.unshare(", "-1 or libc.unshare(")
    (tmp_path / "inside.py").write_text(text)
    monkeypatch.setattr(outside, "INSIDE", tmp_path / "inside.py")
    bare = Sandbox()
    assert bare.probe() == ("landlock", "seccomp")
    assert bare.run("print(1)").stdout == "1\n"
    assert "PermissionError" in bare.run("open('a', 'w')").stderr


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_bubblewrap_stands_in_for_landlock(
    box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(inside.__file__).read_text().replace("if version < 1:", "if True:")
    (tmp_path / "inside.py").write_text(text)
    monkeypatch.setattr(outside, "INSIDE", tmp_path / "inside.py")
    monkeypatch.setattr(outside, "_landlock_version", lambda: 0)
    wrapped = Sandbox(box.limits)
    assert wrapped.probe() == ("bwrap", "tmpfs", "seccomp")
    for way in ("passwd", "environment of the parent", "disk", "link out", "mount"):
        assert wrapped.run(ESCAPES[way]).ending == "failed", way
    for place in ("/x", "/tmp/x", "/dev/x", "/usr/lib/x"):
        assert wrapped.run(f"open({place!r}, 'w')").ending == "failed", place
    assert wrapped.run("open('a', 'w').write('x'); print(open('a').read())").stdout == "x\n"


def test_the_filter_knows_its_machine() -> None:
    assert inside.filter_program("riscv64") is None
    for machine in ("x86_64", "aarch64"):
        program = inside.filter_program(machine)
        assert program is not None and len(program) % 8 == 0 and len(program) // 8 < 256
    numbers = [*inside.ALLOWED.values(), *(partly[0] for partly in inside.PARTLY.values())]
    for column in (0, 1):
        used = [pair[column] for pair in numbers if pair[column] is not None]
        assert len(used) == len(set(used)), "a number stands twice"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_numbers_are_those_of_the_headers(machine: str) -> None:
    """Against the compiler's headers, where there is one. Those of arm64 are the generic ones."""
    listed = {**inside.ALLOWED, **{name: partly[0] for name, partly in inside.PARTLY.items()}}
    column = inside.AUDIT_ARCH[machine][0]
    header, prefix = {"x86_64": ("sys/syscall.h", "SYS_"), "aarch64": ("asm-generic/unistd.h", "__NR_")}[
        machine
    ]
    wanted = ("RENAMEAT", "NEW_STAT", "SET_GET_RLIMIT")
    source = "#define __BITS_PER_LONG 64\n" if column else ""
    source += "".join(f"#define __ARCH_WANT_{name}\n" for name in wanted if column) + f"#include <{header}>\n"
    source += "".join(f"#ifdef {prefix}{name}\n{name}={prefix}{name}\n#endif\n" for name in listed)
    try:
        done = subprocess.run(
            ["gcc", "-E", "-P", "-"], input=source, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler with headers here")
    if column == 0 and os.uname().machine != "x86_64":
        pytest.skip("the headers are of another machine")
    found = dict(line.replace(" ", "").split("=") for line in done.stdout.splitlines() if "=" in line)
    assert len(found) > 70
    assert {name: int(number) for name, number in found.items()} == {
        name: listed[name][column] for name in found
    }


def test_a_program_sees_no_other_program_or_file(box: Sandbox) -> None:
    if "root" not in box.layers:
        pytest.skip("this machine allows no namespaces")
    program = """
import glob, os
files = ("/proc", "/proc/1", "/etc/hostname", "/root/.bashrc", "/home", "/tmp/x")
print([path for path in files if os.path.exists(path)])
print([number for number in range(1, 40000) if os.path.exists(f"/proc/{number}")])
"""
    assert box.run(program).stdout == "[]\n[]\n"


def test_programs_use_the_standard_library(box: Sandbox) -> None:
    """Modules written in Python and in C, packages, and modules of the program's own."""
    program = """
import bz2, csv, ctypes, email.message, hashlib, lzma, ssl, unittest.mock, uuid, xml.etree.ElementTree, zlib
import concurrent.futures, decimal, pickle, sqlite3, sys, tempfile, time, zoneinfo
open("mine.py", "w").write("value = 5")
sys.path.insert(0, ".")
import mine
made = sqlite3.connect("a.db")
made.execute("create table t (x)"); made.execute("insert into t values (3)"); made.commit()
print(mine.value, made.execute("select x from t").fetchall(), tempfile.TemporaryFile(dir=".").write(b"x"))
time.sleep(0.01)
"""
    result = box.run(program)
    assert result.stdout == "5 [(3,)] 1\n", result
