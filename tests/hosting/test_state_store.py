"""What is kept survives restarts and kills, keeps its limits, and belongs to one owner."""

from __future__ import annotations

import asyncio
import itertools
import logging
import stat
import threading
from pathlib import Path

import pytest

from coterie.hosting.settings import ServeSettings
from coterie.hosting.state_store import Entry, MissingEntry, StateError, StateFile, StateStore
from tests.forked import Forked

DAY = 86400.0


def opened(folder: Path, most_bytes: int = 2**20, days: float = 30, **more) -> StateFile:
    return StateFile(folder / "state" / "state-1.sqlite", most_bytes, days * DAY, **more)


def response(id: str, parent: str = "", upto: int | None = None, size: int = 0) -> Entry:
    items = [{"id": f"{id}-{side}", "text": "x" * size} for side in ("in", "out")]
    return Entry(id, "response", {"id": id}, items, parent, upto)


def ids(file: StateFile, id: str, kind: str = "response", owner: str = "") -> list[str]:
    return [item["id"] for item in file.history(owner, id, kind)[0]]


def exists(file: StateFile, id: str) -> bool:
    try:
        return file.get("", id, "response") == {"id": id}
    except MissingEntry:
        return False


def test_a_chain_is_read_in_order_and_survives_a_restart(tmp_path):
    first = opened(tmp_path)
    for id, parent in (("a", ""), ("b", "a"), ("c", "b"), ("fork", "a")):
        first.put("", response(id, parent))
    first.close()
    file = opened(tmp_path)
    assert ids(file, "c") == ["a-in", "a-out", "b-in", "b-out", "c-in", "c-out"]
    assert ids(file, "fork") == ["a-in", "a-out", "fork-in", "fork-out"]
    assert file.find("", ["b-out", "none"]) == {"b-out": {"id": "b-out", "text": ""}}
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_another_owner_finds_nothing(tmp_path):
    file = opened(tmp_path)
    file.put("ann", response("a"))
    for attempt in (
        lambda: file.get("bob", "a", "response"),
        lambda: file.get("ann", "a", "conversation"),
        lambda: file.history("bob", "a", "response"),
        lambda: file.items("bob", "a"),
        lambda: file.append("bob", "a", []),
        lambda: file.replace("bob", "a", {}),
        lambda: file.delete_item("bob", "a", "a-in"),
        lambda: file.put("bob", response("b", "a")),
    ):
        with pytest.raises(MissingEntry):
            attempt()
    assert file.find("bob", ["a-in"]) == {} and not file.delete("bob", "a", "response")
    assert ids(file, "a", owner="ann") == ["a-in", "a-out"]


def test_what_is_removed_breaks_what_continues_it(tmp_path):
    file = opened(tmp_path)
    file.put("", response("a"))
    file.put("", response("b", "a"))
    assert file.delete("", "a", "response") and not file.delete("", "a", "response")
    with pytest.raises(MissingEntry, match="'a'"):
        file.history("", "b", "response")
    with pytest.raises(MissingEntry):
        file.put("", response("c", "b"))
    assert not exists(file, "c") and file.find("", ["a-in"]) == {}


def test_a_response_continues_a_conversation_as_it_was(tmp_path):
    file = opened(tmp_path)
    file.put("", Entry("conv", "conversation", {}, [{"id": "1"}, {"id": "2"}]))
    items, end = file.history("", "conv", "conversation")
    assert [item["id"] for item in items] == ["1", "2"]
    file.put("", response("a", "conv", end))
    file.delete_item("", "conv", "2")
    file.append("", "conv", [{"id": "3"}])
    assert ids(file, "a") == ["1", "a-in", "a-out"]
    assert [item["id"] for item in file.items("", "conv")] == ["1", "3"]
    file.replace("", "conv", {"n": 1})
    assert file.get("", "conv", "conversation") == {"n": 1}


def test_the_least_used_goes_first_and_never_before_what_continues_it(tmp_path):
    clock = itertools.count(1000.0)
    file = opened(tmp_path, 400_000, clock=lambda: next(clock))
    file.put("", response("root", size=10_000))
    for number in range(60):  # 20 kB each
        file.put("", response(f"r{number}", size=10_000))
        if number % 5 == 0:
            file.put("", response(f"leaf{number}", "root", size=1000))
    assert exists(file, "root") and exists(file, "r59") and not exists(file, "r0")
    left = [number for number in range(60) if exists(file, f"r{number}")]
    assert left == list(range(left[0], 60)) and len(left) >= 5
    for number in range(0, 60, 5):
        if exists(file, f"leaf{number}"):
            assert ids(file, f"leaf{number}")[0] == "root-in"
    file.close()
    assert file.path.stat().st_size < 600_000


def test_a_conversation_above_the_limit_is_an_error_and_changes_nothing(tmp_path):
    file = opened(tmp_path, 200_000)
    file.put("", response("a", size=30_000))
    file.put("", response("other", size=1000))
    with pytest.raises(StateError, match="--store-mb"):
        file.put("", response("b", "a", size=90_000))
    assert not exists(file, "b") and exists(file, "a") and exists(file, "other")


def test_days_without_use_and_a_clock_that_goes_back(tmp_path):
    now = 1e9
    file = opened(tmp_path, days=2, clock=lambda: now)
    file.put("", response("old"))
    file.put("", response("used"))
    now += 1.5 * DAY
    file.put("", response("next", "used"))
    now += DAY
    file.put("", response("new"))
    assert [exists(file, id) for id in ("old", "used", "next", "new")] == [False, True, True, True]
    now -= 300 * DAY
    file.put("", response("before"))
    assert exists(file, "before") and exists(file, "new")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines for the operator; other tests may have turned on the lines that only inform."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("how", ["noise", "pages"])
def test_a_damaged_file_is_set_aside_with_one_line(tmp_path, caplog, how):
    file = opened(tmp_path)
    for number in range(30):
        file.put("", response(f"r{number}", size=3000))
    file.close()
    if how == "noise":
        file.path.write_bytes(b"not a database" * 1000)
    else:
        whole = bytearray(file.path.read_bytes())
        whole[4096 * 2 :] = bytes(len(whole) - 4096 * 2)
        file.path.write_bytes(whole)
    again = opened(tmp_path)
    with caplog.at_level(logging.WARNING, "coterie.serve"):
        for id in ("x", "y"):
            again.put("", response(id))
    (said,) = warnings_of(caplog)
    assert "is damaged" in said
    assert exists(again, "x") and exists(again, "y") and not exists(again, "r1")
    assert len(list(file.path.parent.glob("*.damaged-*"))) == 1


def test_a_file_that_someone_removes_begins_anew(tmp_path):
    file = opened(tmp_path)
    file.put("", response("a"))
    for path in file.path.parent.iterdir():
        path.unlink()
    file.put("", response("b"))
    assert not exists(file, "a") and exists(opened(tmp_path), "b")


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path, caplog):
    file = opened(tmp_path)
    file.put("", response("a"))
    pages = file._open().execute("PRAGMA page_count").fetchone()[0]
    file._open().execute(f"PRAGMA max_page_count = {pages + 2}")
    store = StateStore(file)

    async def attempts() -> None:
        for id in ("b", "c"):
            with pytest.raises(StateError, match="full"):
                await store.do(lambda file, id=id: file.put("", response(id, size=50_000)))
        assert await store.do(lambda file: exists(file, "a"))

    with caplog.at_level(logging.WARNING, "coterie.serve"):
        asyncio.run(attempts())
    assert len(warnings_of(caplog)) == 1  # not one line for every request
    store.close()
    store.close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StateError, match="state-1"):
        opened(tmp_path).put("", response("a"))


def test_several_servers_write_at_once(tmp_path):
    failures = []

    def write(name: str) -> None:
        file = opened(tmp_path, 2**22)
        try:
            for number in range(40):
                file.put("", response(f"{name}{number}", f"{name}{number - 1}" if number else ""))
        except StateError as error:
            failures.append(error)
        file.close()

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file = opened(tmp_path)
    assert not failures and all(len(ids(file, f"{name}39")) == 80 for name in "abc")


def put_for_ever(path: Path) -> None:
    file = StateFile(path, 2**22, 1e6)
    for number in range(10**6):
        items = [{"id": f"{number}-in"}, {"id": f"{number}-out", "text": "x" * 2000}]
        file.put("", Entry(f"r{number}", "response", {"id": f"r{number}"}, items))
        print(number, flush=True)


def test_a_killed_server_loses_nothing_that_it_has_answered(tmp_path):
    file = opened(tmp_path)
    writer = Forked(put_for_ever, file.path)
    said = [int(writer.stdout.readline()) for _ in range(20)]
    writer.kill()
    said += [int(line) for line in writer.stdout if line.endswith("\n")]
    assert all(ids(file, f"r{number}") == [f"{number}-in", f"{number}-out"] for number in said)


def test_where_the_state_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert ServeSettings().state_path == tmp_path / "coterie"
    assert ServeSettings(state_dir=Path("~/x")).state_path == Path.home() / "x"
    StateStore.of(ServeSettings()).close()
    assert not list(tmp_path.iterdir())  # nothing is made before something is kept
