"""The tools: no way out of the folder, arithmetic and nothing else, HTTP to named hosts alone."""

from __future__ import annotations

import math
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.sandbox.arithmetic import ArithmeticRefused, evaluate
from coterie.sandbox.folder import Folder, FolderError
from coterie.sandbox.tools import Calculator, HttpGet, ListFiles, ReadFile, ToolError, WriteFile
from tests.agents.fake import FakeServer


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file outside it and links that lead there."""
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / "a.txt").write_text("héllo")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "secrets").mkdir()
    (inside / "link.txt").symlink_to("../secret.txt")
    (inside / "inner-link.txt").symlink_to("a.txt")
    (inside / "out").symlink_to("../secrets")
    (inside / "self").symlink_to(".")
    return inside


def test_files(place: Path) -> None:
    folder = Folder(place)
    assert folder.names(".") == ["a.txt", "inner-link.txt", "link.txt", "out", "self", "sub/"]
    assert folder.read("./a.txt") == "héllo"
    (place / "a.txt").chmod(0o755)
    assert folder.write("a.txt", "neu\u00eb") == 5 and (place / "a.txt").read_bytes() == "neuë".encode()
    assert (place / "a.txt").stat().st_mode & 0o777 == 0o755
    folder.write("new/deep/file.txt", "x")
    assert folder.names("new/deep") == ["file.txt"] and folder.read("new/deep/file.txt") == "x"
    assert sorted(os.listdir(place)) == ["a.txt", "inner-link.txt", "link.txt", "new", "out", "self", "sub"]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt", "/etc/passwd", "link.txt", "inner-link.txt", "out/x", "self/a.txt",
        "sub/../../secret.txt", "sub", "nothing.txt", "a.txt/x", "", ".", "a\0b", "x" * 300,
    ],
)  # fmt: skip
def test_no_way_out(path: str, place: Path) -> None:
    folder = Folder(place)
    for action in (lambda: folder.read(path), lambda: folder.write(path, "changed")):
        if path == "nothing.txt" and action is not None and action.__code__.co_consts[-1] == "changed":
            continue  # a new file may be written
        with pytest.raises(FolderError) as refused:
            action()
        assert "\n" not in str(refused.value)
    if path.startswith(("..", "/", "out", "self", "link")):
        with pytest.raises(FolderError):
            folder.names(path)
    assert (place.parent / "secret.txt").read_text() == "secret" and not os.listdir(place.parent / "secrets")
    assert (place / "a.txt").read_text() == "héllo"


def test_what_is_no_text_or_no_file(place: Path) -> None:
    folder = Folder(place, longest=10)
    (place / "long.txt").write_text("x" * 11)
    (place / "bytes.bin").write_bytes(b"\xff\xfe")
    os.mkfifo(place / "pipe")
    started = time.monotonic()
    for name in ("long.txt", "bytes.bin", "pipe"):
        with pytest.raises(FolderError, match=name):
            folder.read(name)
    assert time.monotonic() - started < 1, "a pipe without a writer is not waited for"
    for name, text in (("pipe", "x"), ("new.txt", "x" * 11)):
        with pytest.raises(FolderError):
            folder.write(name, text)
    assert not (place / "new.txt").exists()


def test_a_folder_swapped_for_a_link_leads_nowhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is replaced between its opening and the writing: the write lands in the folder that was
    opened.
    """
    folder, real = Folder(place), os.rename

    def swap(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(os, "rename", real)
        real(place / "sub", place / "moved")
        (place / "sub").symlink_to("../secrets")
        real(*args, **kwargs)

    monkeypatch.setattr(os, "rename", swap)
    folder.write("sub/x.txt", "text")
    assert not os.listdir(place.parent / "secrets") and (place / "moved/x.txt").read_text() == "text"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("(7 // 2) ** 3 % 5 - -1", "3"),
        ("2 ** 200", str(2**200)),
        ("sqrt(2) * pi", str(math.sqrt(2) * math.pi)),
        ("round(2.567, 2) + max(1, 2, 3)", "5.57"),
        ("hypot(3, 4) / 2", "2.5"),
        (" 1e3 ", "1000.0"),
    ],
)
def test_arithmetic(text: str, value: str) -> None:
    assert evaluate(text) == value
    assert Calculator().call({"expression": text}, 1) == value


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9", "2**99999", "10**5000 * 10**5000 * 10**5000", "1/0", "0**-1", "(-1)**0.5",
        "__import__('os')", "x", "'a'*9", "[1]*9", "a.b", "lambda: 1", "(1).real", "abs(x=1)", "print(1)",
        "1 if 1 else 2", "1 < 2", "True", "1j", "", "1 +", "round(5, -10**9)", "round(5, 10**9)",
        "(" * 200 + "1" + ")" * 200, "-" * 499 + "1", "1" * 501, "floor(1e999)", "1; 2", "sqrt()",
        "gcd(1.5, 2)", "exp(1000)", "1 and 2", "open('/etc/passwd')", "2.5 ** 10000", "~5", "1 << 9**9",
        "\0",
    ],
)  # fmt: skip
def test_what_is_no_arithmetic_ends_at_once(text: str) -> None:
    started = time.monotonic()
    try:
        shown = evaluate(text)
        assert text.startswith(("-", "(")), f"{text!r} gave {shown}"
    except ArithmeticRefused as refused:
        assert "\n" not in str(refused)
    assert time.monotonic() - started < 0.5


@given(st.text(alphabet="0123456789+-*/%.()e, sqrtmaxroundgcd", max_size=60))
def test_no_text_does_harm(text: str) -> None:
    try:
        evaluate(text)
    except ArithmeticRefused:
        pass


def test_arguments_must_keep_the_schema(place: Path) -> None:
    tool = WriteFile(Folder(place))
    tool.check({"path": "a", "content": "b"})
    for wrong in ({}, {"path": "a"}, {"path": 1, "content": "b"}, {"path": "a", "content": "b", "mode": "x"}):
        with pytest.raises(ToolError, match="arguments of write_file"):
            tool.check(wrong)
    assert tool.writes and not ReadFile(Folder(place)).writes
    assert ListFiles(Folder(place)).call({}, 1).splitlines()[0] == "a.txt"


def test_http_only_to_named_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(lambda path, body: (200, {})) as server:
        host = server.url.removeprefix("http://")
        assert '"id": "tiny"' in HttpGet(["127.0.0.1"]).call({"url": f"{server.url}/v1/models?x=1"}, 5)
        assert "status 200" in HttpGet([host]).call({"url": f"{server.url}/"}, 5)
        others = [
            f"http://localhost:{host.split(':')[1]}/",
            "file:///etc/passwd",
            "ftp://127.0.0.1/",
            "http://127.0.0.1@x/",
            "x",
        ]
        others += [f"http://user:pw@{host}/", "http://[bad/", "http://127.0.0.1:99999/"]
        for url in others:
            with pytest.raises(ToolError):
                HttpGet(["127.0.0.1"]).call({"url": url}, 5)
        with pytest.raises(ToolError, match="not allowed"):
            HttpGet(["127.0.0.1:1"]).call({"url": server.url}, 5)
        # A name of the internet that leads into this machine.
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", 80))])
        with pytest.raises(ToolError, match="not on the internet"):
            HttpGet(["good.example"]).call({"url": f"http://good.example:{host.split(':')[1]}/"}, 5)
