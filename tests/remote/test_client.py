"""The client of the OpenAI API against a scripted server on a real socket: whatever goes wrong is one clear
line.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.agents.speaker import RemoteSpeaker
from coterie.config.errors import ConfigError
from coterie.remote.client import Endpoint, EndpointError, read_key, sse_data
from coterie.text.chat import Message
from tests.agents.fake import FakeServer, chunk

ASK = [Message("user", "hello")]


@given(
    st.lists(st.text(alphabet=st.characters(blacklist_categories=["Cs"]), min_size=1), min_size=1), st.data()
)
def test_events_do_not_depend_on_how_the_bytes_are_cut(texts: list[str], data: st.DataObject) -> None:
    """Line separators inside JSON, line feeds in two fashions, comments, and cuts inside a character."""
    sent = [json.dumps({"t": text}, ensure_ascii=False) for text in texts]
    wire = b""
    for text in sent:
        end = data.draw(st.sampled_from(["\n", "\r\n"]))
        wire += f": ping{end}{end}event: x{end}data: {text}{end}{end}".encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert [json.loads(event)["t"] for event in sse_data(iter(pieces))] == texts


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ([chunk({"content": "half"})], "ended before the reply was complete"),
        (
            [chunk({"content": "a"}), {"error": {"message": "engine died", "code": "dead"}}],
            "dead: engine died",
        ),
        ([chunk({"content": "a"}), {"error": "just text"}], "just text"),
        (["data: {broken\n\n"], "not JSON"),
        ([{"object": "nonsense"}], "no list of choices"),
        ([chunk({"tool_calls": [{"function": {"name": "f"}}]})], "no index"),
        ((429, {"error": {"message": "busy", "code": "queue_full"}}), "429 queue_full: busy"),
        ((422, {"detail": [{"msg": "bad"}]}), "422"),
    ],
)
def test_failures_are_one_line(reply: object, said: str) -> None:
    with (
        FakeServer(lambda path, body: reply, done=False) as server,
        pytest.raises(EndpointError, match=said) as failure,
    ):  # type: ignore[arg-type, return-value]
        RemoteSpeaker(Endpoint(server.url)).say(ASK)
    assert "\n" not in str(failure.value)


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with FakeServer(lambda path, body: [chunk({"content": "x"}, "stop")]) as server:
        assert RemoteSpeaker(Endpoint(server.url)).say(ASK).message.text == "x"


def test_nobody_listens() -> None:
    with FakeServer(lambda path, body: []) as server:
        url = server.url
    with pytest.raises(EndpointError, match="is the server running"):
        RemoteSpeaker(Endpoint(url))


def test_keys_go_only_where_they_were_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-another-service")
    monkeypatch.delenv("COTERIE_API_KEY", raising=False)
    (tmp_path / "key").write_text("from-file\n")
    (tmp_path / "empty").write_text("\nsecond-line")
    (tmp_path / "words").write_text("two words\n")
    events = [chunk({"content": "x"}, "stop")]
    with FakeServer(lambda path, body: events) as server:
        for key in (read_key(None), read_key(str(tmp_path / "key"))):
            RemoteSpeaker(Endpoint(server.url, key)).say(ASK)
        monkeypatch.setenv("COTERIE_API_KEY", "from-environment")
        RemoteSpeaker(Endpoint(server.url, read_key(None)), "other").say(ASK)
        with pytest.raises(ConfigError, match="serves no 'gone'; it has tiny, other"):
            RemoteSpeaker(Endpoint(server.url), "gone")
    sent = [headers.get("authorization") for _, _, headers in server.seen]
    assert sent == [None, "Bearer from-file", "Bearer from-environment"]
    assert server.seen[2][1]["model"] == "other"
    for name in ("empty", "words", "missing"):
        with pytest.raises(ConfigError, match="key file"):
            read_key(str(tmp_path / name))


@pytest.mark.parametrize("url", ["http://", "ftp://x", "http://x/?a=1", "http://me:secret@x/"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        Endpoint(url)


def test_a_pipe_in_place_of_a_key_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key")
    with pytest.raises(ConfigError, match="key: Not a regular file"):
        read_key(str(tmp_path / "key"))
