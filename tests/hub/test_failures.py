"""What can go wrong with the hub, as one line each (the hub's own refusals: tests of the cache)."""

from __future__ import annotations

import errno
from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import FileMetadataError

from coterie.config import CheckpointError
from coterie.hub.cache import obtain
from coterie.hub.failures import HubError, hub_error
from coterie.hub.names import HubName
from tests.hub.fake import FakeHub

NAME = HubName("a/b")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "full"), "a/b: the disk is full; free space and run it again; what was"),
        (
            PermissionError(13, "Permission denied", "/x"),
            "a/b: /x: Permission denied; check permissions, HF_",
        ),
        (httpx2.ConnectTimeout("timed out"), "a/b: the hub cannot be reached (timed out); check the network"),
        (httpx2.ReadError(""), "a/b: the hub cannot be reached (ReadError); check the network and run it"),
        (
            ValueError("line 1\n column 1"),
            "a/b: the hub's client failed (line 1 column 1); check HF_ENDPOINT",
        ),
        (
            FileMetadataError("no\nheader"),
            "a/b: the hub cannot be reached (no header); check the network and",
        ),
    ],
)
def test_one_line_each(error: Exception, line: str):
    found = str(hub_error(NAME, error))
    assert found.startswith(line) and "\n" not in found


def test_an_error_that_is_a_line_already_stays():
    error = HubError("a/b: something", final=True)
    assert hub_error(NAME, error) is error


def test_an_answer_that_is_no_hub(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "_api", lambda request, *rest: hub_page(request))
    with pytest.raises(CheckpointError, match=r"a/b: the hub's client failed \(.*\); check HF_ENDPOINT"):
        obtain(NAME)


def hub_page(request: object) -> None:
    from tests.hub.fake import _reply

    _reply(request, 200, b"<html>sign in</html>")  # type: ignore[arg-type]


def test_a_file_that_only_the_client_fetches(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Above 50 GB the client refuses plain HTTP and asks for hf_xet, which this hub does not speak."""
    from huggingface_hub import constants

    hub.put("a/b", {"model.safetensors": b"w" * 3000})
    monkeypatch.setattr(constants, "MAX_HTTP_DOWNLOAD_SIZE", 2000)
    hub.most = 500  # and the hub refuses pieces
    with pytest.raises(CheckpointError, match=r"the hub's client failed \(The file is too large .*hf_xet"):
        obtain(NAME)
