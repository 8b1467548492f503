"""The tools: arguments are checked, and HTTP goes to named hosts alone."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from coterie.sandbox.folder import Folder
from coterie.sandbox.tools import HttpGet, ListFiles, ReadFile, ToolError, WriteFile
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
