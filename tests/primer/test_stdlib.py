"""The slices of the standard library: cut without loss, each module in one slice, prose apart from code."""

import json
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.config.errors import DataError
from coterie.primer import stdlib

SOURCE = '''#!/usr/bin/env python
# A small module.
# It does little.

"""Head of the module."""

import os


class Box:
    """A box."""

    def open(self, key, /, slowly):
        """Open it.

        Twice.
        """

    def close(self): ...


def lone(a, b):
    "One line."
'''


def test_prose_by_hand():
    assert stdlib.prose(SOURCE) == (
        "A small module.\nIt does little.\n\nHead of the module.\n\nBox\nA box.\n\n"
        "Box.open(self, key, slowly)\nOpen it.\n\nTwice.\n\nlone(a, b)\nOne line."
    )
    assert stdlib.prose("def broken(:") == ""


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["def f():", "    return 1", "", "class A:", "    def g(self):", "x = 1", "@d", "# c"]
        )
    )
)
def test_split_loses_nothing(lines):
    source = "\n".join(lines * 60) + "\n"
    parts = stdlib.split(source)
    assert "".join(parts) == source
    assert all(len(part) <= stdlib.HARD_BYTES + 100 for part in parts)


def test_a_real_module_is_cut_between_definitions():
    source = Path(json.__file__).with_name("decoder.py").read_text()
    parts = stdlib.split(source)
    assert len(parts) >= 2 and "".join(parts) == source
    for part in parts[1:]:
        assert part.startswith(("def ", "class ", "@", "#", "    def ", "    @"))


def test_slices_never_share_a_module_and_hold_no_tests():
    code, docs = set(stdlib.modules("code", 0)), set(stdlib.modules("docs", 0))
    assert not code & docs and len(code) > 150 and len(docs) > 150
    everything = code | docs
    assert {"os", "json/decoder", "asyncio/tasks", "pydoc_data/topics"} <= everything
    for name in everything:
        assert not {"test", "tests", "idle_test", "site-packages", "turtledemo", "__pycache__"} & set(
            name.split("/")
        )
    assert stdlib.modules("code", 0) != stdlib.modules("code", 1)
    assert sorted(stdlib.modules("code", 0)) == sorted(stdlib.modules("code", 1))


def test_code_documents_are_the_files():
    for name in stdlib.modules("code", 2)[:15]:
        path = stdlib.root() / f"{name}.py"
        text = path.read_text(encoding="utf-8")
        parts = [d.text for d in stdlib.documents("code", 2) if d.name.startswith(f"code/{name}#")]
        assert "".join(parts).strip("\n") == text.strip("\n")


def test_docs_documents_are_prose():
    found = list(islice(stdlib.documents("docs", 0), 60))
    assert len({document.name for document in found}) == 60
    letters = sum(c.isalpha() or c in " ,.\n" for document in found for c in document.text)
    assert letters > 0.85 * sum(len(document.text) for document in found)


def test_no_sources_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(stdlib.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(DataError, match=r"no standard library sources in [^\n]+$"):
        next(stdlib.documents("code", 0))


def test_what_is_not_utf8_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "os.py").write_text("x = 1\n")
    for number in range(20):
        (tmp_path / f"old{number}.py").write_bytes("# caf\xe9\n".encode("latin-1"))
        (tmp_path / f"new{number}.py").write_bytes("# caf\xe9\r\ny = 2".encode())
    monkeypatch.setattr(stdlib.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    texts = {document.name: document.text for document in stdlib.documents("code", 0)}
    assert any("new" in name for name in texts) and not any("old" in name for name in texts)
    assert all(text == "# caf\xe9\ny = 2\n" for name, text in texts.items() if "new" in name)
