"""A release on the hub: the download holds all that a check needs, in the cache and in a pulled directory."""

from __future__ import annotations

from pathlib import Path

from coterie.evidence.claims import CLAIMS
from coterie.release.check import check_release
from coterie.release.publish import check_target
from tests.cli.support import call
from tests.hub.fake import FakeHub
from tests.hub.fixtures import cache, hub
from tests.release.released import key, release, write_model, write_report

__all__ = ["cache", "hub"]


def test_a_release_is_checked_where_it_was_published(hub: FakeHub, tmp_path: Path) -> None:
    write_report(write_model(tmp_path / "model"), tmp_path / "report")
    release(tmp_path / "model", tmp_path / "report", tmp_path / "out", about="It adds.")
    files = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    hub.put("owner/tiny", files)
    key().write(tmp_path / "me.key")
    checked = check_target("https://huggingface.co/owner/tiny", [tmp_path / "me.key.pub"])
    assert checked.refusals == [] and checked.record is not None and checked.record.name == "owner/tiny"
    call("pull", "owner/tiny", "--to", str(tmp_path / "pulled"))
    assert check_release(tmp_path / "pulled", [key().public]).refusals == []
    hub.put("owner/tiny", {name: content for name, content in files.items() if name != CLAIMS}, mark="two")
    assert check_release("owner/tiny", [key().public]).refusals[0].rule == "signature"
