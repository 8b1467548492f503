"""Which of a directory's chat templates is used, where it came from, and what contradicts it."""

# ruff: noqa: E501  # one template or case a line

import json
from pathlib import Path

import pytest

from coterie.config.errors import DataError
from coterie.text.template_sources import ChatTemplates, read_templates, template_from, write_templates
from coterie.text.tokenizer import Tokenizer

JINJA, FOLDER, JSON = "chat_template.jinja", "additional_chat_templates/tool_use.jinja", "chat_template.json"
LIST = [{"name": "default", "template": "list {{ x }}"}, {"name": "tool_use", "template": "list tools"}]


def directory(path: Path, files: dict[str, str], inline=None) -> Path:
    Tokenizer.train(["some words"], 270, chat_template="x").save(path)
    (path / JINJA).unlink()
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(
        json.dumps(config | ({"chat_template": inline} if inline else {}))
    )
    (path / "additional_chat_templates").mkdir()
    for name, text in files.items():
        (path / name).write_text(json.dumps({"chat_template": text}) if name == JSON else text)
    return path


# files, tokenizer_config.json's own; the template without tools and with them, and where they came from
CASES = {
    "file": ({JINJA: "A"}, None, ("A", "A", JINJA)),
    "inline": ({}, "B", ("B", "B", "tokenizer_config.json")),
    "list": ({}, LIST, ("list {{ x }}", "list tools", "tokenizer_config.json")),
    "object": ({}, {"default": "B", "rag": "C"}, ("B", "B", "tokenizer_config.json")),
    "file before inline": ({JINJA: "A"}, "B", ("A", "A", JINJA)),
    "file before list": ({JINJA: "A"}, LIST, ("A", "A", JINJA)),
    "folder": ({JINJA: "A", FOLDER: "T"}, "B", ("A", "T", JINJA)),
    "folder replaces the file": ({JINJA: "A", FOLDER.replace("tool_use", "default"): "D"}, None, ("D", "D", "additional_chat_templates/default.jinja")),
    "folder alone": ({FOLDER: "T"}, "B", (None, "T", None)),
    "no default": ({}, [{"name": "rag", "template": "C"}], (None, None, None)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_choice_is_that_of_transformers(case, tmp_path):
    transformers = pytest.importorskip("transformers")
    files, inline, (plain, tools, origin) = CASES[case]
    path = directory(tmp_path, files, inline)
    ours, theirs = Tokenizer.load(path), transformers.AutoTokenizer.from_pretrained(path)
    assert ours.chat_template == plain and (plain is None or ours.templates.default.origin == origin)
    for with_tools, expected in ((False, plain), (True, tools)):
        if expected is None:
            with pytest.raises(DataError, match="no 'default' one, only"):
                ours.template_for(with_tools)
            with pytest.raises(ValueError, match="multiple chat templates"):
                theirs.get_chat_template(tools=[] if with_tools else None)
        else:
            assert ours.template_for(with_tools) == expected
            assert theirs.get_chat_template(tools=[{}] if with_tools else None) == expected
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").templates.named == ours.templates.named


@pytest.mark.parametrize(
    ("files", "inline", "notes"),
    [
        ({JINJA: "A"}, "A\n", []),
        ({JINJA: "A"}, "B", ["in tokenizer_config.json differs from chat_template.jinja, which is used"]),
        (
            {FOLDER: "T"},
            "B",
            [f"'default' in tokenizer_config.json is not used, because {FOLDER} goes before"],
        ),
        ({JINJA: "A", FOLDER: "T"}, LIST, ["differs from chat_template.jinja", f"differs from {FOLDER}"]),
        ({JINJA: "A", JSON: "P"}, "A", ["in chat_template.json differs from chat_template.jinja"]),
        ({JSON: "P"}, None, []),
    ],
)
def test_contradictions_are_named(files, inline, notes, tmp_path):
    found = Tokenizer.load(directory(tmp_path, files, inline)).templates
    assert len(found.notes) == len(notes)
    for note, expected in zip(found.notes, notes, strict=True):
        assert expected in note


def test_a_processor_template_counts_where_there_is_no_other(tmp_path):
    assert Tokenizer.load(directory(tmp_path, {JSON: "P"})).template_for(True) == "P"


@pytest.mark.parametrize(
    "inline", [5, ["x"], [{"name": "a"}], {"default": 3}, [{"name": "../x", "template": ""}], {"": "x"}]
)
def test_what_is_no_template_is_refused_in_one_line(inline, tmp_path):
    with pytest.raises(DataError, match=r"tokenizer_config\.json: chat_template") as caught:
        read_templates(tmp_path, inline)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / JINJA).write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_templates(tmp_path, None)
    (tmp_path / JINJA).write_bytes(b"x" * 4_000_001)
    with pytest.raises(DataError, match="larger than"):
        read_templates(tmp_path, None)


def test_an_option_names_a_file_or_a_shipped_template(tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ 1 }}")
    assert template_from(str(tmp_path / "mine.jinja")) == "{{ 1 }}"
    assert "im_start" in template_from("chatml")
    with pytest.raises(DataError, match=r"nor a shipped template .chatml, deepseek_r1"):
        template_from("nothing")
    write_templates(tmp_path, ChatTemplates.of(template_from("chatml")))
    assert "im_start" in (tmp_path / JINJA).read_text()
