"""The memory of a container is its own group's limit, in either version of control groups."""

from pathlib import Path

import pytest

from coterie.machine import system


@pytest.mark.parametrize(
    ("line", "file"),
    [("0::/box", "box/memory.max"), ("4:cpu,memory:/a/box", "memory/a/box/memory.limit_in_bytes")],
)
def test_the_limit_of_the_own_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, file: str
) -> None:
    groups = tmp_path / "groups"
    monkeypatch.setattr(system, "_GROUPS", groups)
    monkeypatch.setattr(system, "_MOUNT", tmp_path)
    groups.write_text(f"5:cpu:/\n{line}\n", encoding="ascii")
    limit = tmp_path / file
    limit.parent.mkdir(parents=True)
    limit.write_text("123456\n", encoding="ascii")
    assert system.memory_bytes() == 123456 and system.weight_memory() == 111110
    limit.write_text("max\n", encoding="ascii")
    assert system.memory_bytes() > 123456
    groups.unlink()
    assert system.memory_bytes() > 123456
    assert system.page_faults()["minor"] > 0
