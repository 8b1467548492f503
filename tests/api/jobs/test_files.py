"""Uploads, through the real `openai` package and by hand."""

from __future__ import annotations

import io
from typing import Any

import openai
import pytest

from tests.serve.support import call, serving

CONTENT = b'{"a": 1}\n' * 3


def test_the_openai_package_uploads_lists_reads_and_deletes(client, server):
    before = {one.id for one in client.files.list()}
    made = client.files.create(file=("../ü.jsonl", CONTENT), purpose="batch")
    other = client.files.create(
        file=io.BytesIO(b"x"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (made.filename, made.bytes, made.status) == ("ü.jsonl", len(CONTENT), "processed")
    assert made.expires_at == made.created_at + 30 * 86400
    assert other.expires_at == other.created_at + 3600
    assert client.files.content(made.id).read() == CONTENT
    assert client.files.retrieve(made.id) == made == client.files.wait_for_processing(made.id)
    assert [one.id for one in client.files.list(limit=1) if one.id not in before] == [other.id, made.id]
    assert made.id in [one.id for one in client.files.list(purpose="batch")]
    assert other.id not in [one.id for one in client.files.list(purpose="batch", order="asc")]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError, match=made.id):
        client.files.content(made.id)
    left = {path.name for path in (server.host.settings.state_path / "files").iterdir()}
    assert made.id not in left and other.id in left


def test_what_is_too_large_leaves_nothing(client, server):
    with pytest.raises(openai.APIStatusError, match="--files-mb") as caught:
        client.files.create(file=("a", b"x" * (2 * 2**20 + 1)), purpose="user_data")
    assert caught.value.status_code == 413
    folder = server.host.settings.state_path / "files"
    assert sorted(path.name for path in folder.iterdir()) == sorted(one.id for one in client.files.list())


def form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    return (
        b"".join(
            b"--b\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), data)
            for head, data in parts
        )
        + end
    )


PURPOSE, FILE = ('name="purpose"', b"batch"), ('name="file"; filename="a"', b"1")
WRONG: list[tuple[bytes, int, str | None]] = [
    (form(FILE), 400, "/purpose"),
    (form(PURPOSE), 400, "/file"),
    (form(FILE, FILE, PURPOSE), 400, "/file"),
    (form(FILE, PURPOSE, PURPOSE), 400, "/purpose"),
    (form(FILE, ('name="purpose"', b"assistants")), 400, "/purpose"),
    (form(FILE, PURPOSE, ('name="colour"', b"red")), 400, "/colour"),
    (form(FILE, PURPOSE, ('name="expires_after[seconds]"', b"1")), 400, "/expires_after/"),
    (form(FILE, ('name="purpose"', b"\xff")), 400, "/purpose"),
    (form(('name="f"; filename="a"', b"1"), PURPOSE), 400, "/f"),
    (form(FILE, PURPOSE, end=b""), 400, None),
    (form(FILE, ('name="purpose"', b"x" * 70_000)), 413, None),
    (b"nonsense", 400, None),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_wrong_forms_are_pointed_at_and_leave_nothing(server, case):
    body, status, param = WRONG[case]
    folder = server.host.settings.state_path / "files"
    before = sorted(folder.iterdir()) if folder.exists() else []
    headers = {"content-type": 'multipart/form-data; boundary="b"'}
    got, _, answer = call(server.url, "POST", "/v1/files", body, headers)
    assert got == status, answer
    assert str(answer["error"]["param"]).startswith(str(param)), answer
    assert sorted(folder.iterdir()) == before


def test_other_bodies_are_refused(server):
    assert call(server.url, "POST", "/v1/files", {"purpose": "batch"})[0] == 415
    status, headers, _ = call(
        server.url, "POST", "/v1/files", form(FILE, PURPOSE, ('name="user"', b"me")),
        {"content-type": "multipart/form-data; boundary=b"},
    )  # fmt: skip
    assert (status, headers["x-coterie-ignored"]) == (200, "user")


def test_a_file_belongs_to_its_key(tmp_path):
    keys = [{"name": name, "key": f"key-of-{name}"} for name in ("ann", "bob")]
    with serving(state_dir=str(tmp_path), keys=keys) as running:
        people: dict[str, Any] = {
            name: openai.OpenAI(base_url=running.url + "/v1", api_key=f"key-of-{name}", max_retries=0)
            for name in ("ann", "bob")
        }
        id = people["ann"].files.create(file=("a", b"1"), purpose="batch").id
        for attempt in ("retrieve", "content", "delete"):
            with pytest.raises(openai.NotFoundError):
                getattr(people["bob"].files, attempt)(id)
        assert [*people["bob"].files.list()] == [] and len([*people["ann"].files.list()]) == 1
        with pytest.raises(openai.NotFoundError):
            people["bob"].batches.create(
                input_file_id=id, endpoint="/v1/completions", completion_window="24h"
            )


def test_a_server_without_a_store_says_so():
    with serving(store=False) as running:
        for path in ("/v1/files", "/v1/batches"):
            status, _, body = call(running.url, "GET", path)
            assert status == 404 and "--no-store" in body["error"]["message"]
