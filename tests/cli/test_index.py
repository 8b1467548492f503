"""`coterie index`: planted items are found, a clean twin has none, and bad input is one line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import MODEL, call, fails, write_config
from tests.contamination.support import items, words

ASKED = items(14, seed=3)
SHORT = ("What is the capital of Zub?", "Quang")


def write_items(folder: Path) -> Path:
    rows = [{"id": one.id, "question": one.question, "answer": one.answers[0]} for one in ASKED]
    rows += [{"id": "short", "question": SHORT[0], "answer": SHORT[1]}]
    rows += [{"id": "other", "question": "Who lives there?", "answer": "Mo"}]
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_text(folder: Path, name: str, planted: int) -> Path:
    """120 documents; the first `planted` items stand in two documents each, so that one is trained on."""
    rng = random.Random(f"text {name}")
    texts = [words(rng, 60) for _ in range(120)]
    for item in ASKED[:planted]:
        texts += [
            f"{words(rng, 20)}\nQuestion: {item.question}\nAnswer: {item.answers[0]}\n{words(rng, 9)}"
            for _ in "ab"
        ]
    if planted:
        texts += [f"{words(rng, 9)}\n\nQ: {SHORT[0]}\nA: {SHORT[1]}\n\n{words(rng, 9)}" for _ in "abc"]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over planted items, its clean twin, and the items."""
    folder = tmp_path_factory.mktemp("runs")
    write_items(folder)
    for name, planted in (("dirty", 8), ("clean", 0)):
        text = write_text(folder, name, planted)
        data = {"sources": [str(text)], "vocab_size": 300, "row_length": 64, "dedup_near": False}
        model = MODEL | {"max_position_embeddings": 1024}
        config = write_config(folder, text, folder / name, steps=2, save_every=0, data=data, model=model)
        call("train", str(config))
    return folder


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    call("index", *arguments, "--json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def classes(record: dict[str, Any]) -> dict[str, str]:
    return {one["id"]: one["kind"] for one in record["findings"]}


def test_planted_items_are_found_in_a_trained_model(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in ("dirty", "dirty/model"):
        record = asked(capsys, "query", str(runs / target), str(runs / "items.jsonl"))
        found = classes(record)
        assert [found[one.id] for one in ASKED] == ["contaminated"] * 8 + ["clean"] * 6
        assert (found["short"], found["other"]) == ("contaminated", "unscannable")
        assert {one["label"] for one in record["findings"][:8]} == {"question+answer"}
        assert record["indexes"][0]["stage"] == "pretrain"


def test_the_clean_twin_has_none(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = classes(asked(capsys, "query", str(runs / "clean/model"), str(runs / "items.jsonl")))
    assert [found[one.id] for one in ASKED] == ["clean"] * len(ASKED)
    assert (found["short"], found["other"]) == ("unscannable", "unscannable")


def test_the_manifest_names_the_index_of_what_was_packed(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stage,) = asked(capsys, "show", str(runs / "dirty/model"))["stages"]
    manifest = json.loads((runs / "dirty/model/coterie.json").read_text())
    card = manifest["data_card"]["totals"]["train"]
    (entry,) = manifest["training"]
    assert (entry["index"], entry["stage"], entry["coverage"]) == (stage["digest"], "pretrain", 1.0)
    assert entry["tokens"] == stage["header"]["tokens"] == card["tokens"]
    assert entry["documents"] == card["documents"]
    assert entry["trained_tokens"] == manifest["metrics"]["tokens"]


def turns(question: str, reply: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}


def test_tuning_adds_its_stage(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(5)
    rows = [turns(one.question, one.answers[0]) for one in ASKED[8:11]]
    rows += [turns(words(rng, 9), words(rng, 4)) for _ in range(5)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "tuned"
    settings = ["steps=2", "method=lora"]
    call("tune", str(runs / "dirty/model"), str(data), "--out", str(out), *settings)
    record = asked(capsys, "query", str(out / "adapter"), str(runs / "items.jsonl"))
    found = {one["id"]: one for one in record["findings"]}
    assert [one["stage"] for one in record["indexes"]] == ["pretrain", "tune"]
    assert [found[one.id]["kind"] for one in ASKED] == ["contaminated"] * 11 + ["clean"] * 3
    assert [found[one.id]["stages"] for one in ASKED[8:11]] == [["tune"]] * 3
    assert {found[one.id]["label"] for one in ASKED[8:11]} == {"question+answer"}
    merged = tmp_path / "merged"
    call("merge", str(runs / "dirty/model"), str(out / "adapter"), "--out", str(merged))
    stages = json.loads((merged / "coterie.json").read_text())["training"]
    assert [one["stage"] for one in stages] == ["pretrain", "tune"]
    (out / "index" / f"tune-{stages[1]['index'][:16]}.index").unlink()
    capsys.readouterr()
    call("index", "query", str(out / "adapter"), str(runs / "items.jsonl"))
    text = capsys.readouterr().out
    assert "0 clean, 9 contaminated, 7 unscannable" in text
    assert "stage tune has no index" in text
    partial = classes(asked(capsys, "query", str(out / "adapter"), str(runs / "items.jsonl"), "--partial"))
    assert partial[ASKED[13].id] == "clean"


def test_an_export_answers_with_its_key_only(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    shared, keyed = tmp_path / "shared.index", tmp_path / "keyed.index"
    call("index", "export", str(runs / "dirty"), "--out", str(shared))
    call("index", "export", str(runs / "dirty"), "--out", str(keyed), "--key-file", str(key))
    expected = classes(asked(capsys, "query", str(runs / "dirty"), str(runs / "items.jsonl")))
    for arguments in ([str(shared)], [str(keyed), "--key-file", str(key)]):
        found = classes(asked(capsys, "query", arguments[0], str(runs / "items.jsonl"), *arguments[1:]))
        assert found == expected
    assert str(runs).encode() not in shared.read_bytes()
    line = fails(capsys, "index", "query", str(keyed), str(runs / "items.jsonl"))
    assert "needs a key; give --key-file" in line
    key.write_bytes(b"short")
    line = fails(capsys, "index", "query", str(keyed), str(runs / "items.jsonl"), "--key-file", str(key))
    assert "a key needs at least 16" in line


def test_text_that_was_not_packed_is_indexed(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "text.index"
    built = asked(capsys, "build", str(runs / "dirty.jsonl"), "--out", str(out), "--stage", "tune")
    assert (built["documents"], built["stage"]) == (139, "tune")
    record_file = tmp_path / "record.json"
    call("index", "query", str(out), str(runs / "items.jsonl"), "-o", str(record_file))
    assert classes(json.loads(record_file.read_text()))[ASKED[0].id] == "contaminated"
    assert "stage 'tun': choose one of" in fails(
        capsys, "index", "build", str(runs / "dirty.jsonl"), "--out", str(out), "--stage", "tun"
    )


def test_known_items_are_found_before_training(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, asked_for = str(runs / "dirty.jsonl"), str(runs / "items.jsonl")
    found = asked(capsys, "find", asked_for, text)["found"]
    assert [(one["item"], one["number"]) for one in found[:16]] == [
        (ASKED[at].id, 121 + 2 * at + copy) for at in range(8) for copy in (0, 1)
    ]
    assert [(one["item"], one["number"]) for one in found[16:]] == [("short", 137 + at) for at in range(3)]
    data = {"sources": [text], "vocab_size": 300, "row_length": 64, "exclude": {"items": asked_for}}
    config = write_config(tmp_path, Path(text), tmp_path / "out", steps=2, save_every=0, data=data)
    line = fails(capsys, "train", str(config))
    assert "dirty.jsonl:121: holds evaluation item 'item-0' (30 units in a row), one of 19" in line
    call("train", str(config), "data.exclude.on_found=drop")
    record = asked(capsys, "query", str(tmp_path / "out"), asked_for)
    assert "contaminated" not in classes(record).values()
    card = json.loads((tmp_path / "out/model/coterie.json").read_text())["data_card"]
    assert card["dropped"]["holds an evaluation item"] == 19


def test_bad_input_is_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = str(runs / "items.jsonl")
    assert "no such index, run or model" in fails(capsys, "index", "query", str(tmp_path / "none"), good)
    assert "holds neither an index nor a model" in fails(capsys, "index", "query", str(tmp_path), good)
    assert "cannot be read" in fails(
        capsys, "index", "query", str(runs / "dirty"), str(tmp_path / "none.jsonl")
    )
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": 1, "question": "Why?"}\n')
    assert "bad.jsonl:1: item '1' has no 'answer'" in fails(
        capsys, "index", "query", str(runs / "dirty"), str(bad)
    )
    cut = tmp_path / "cut.index"
    whole = next((runs / "dirty/index").glob("*.index")).read_bytes()
    cut.write_bytes(whole[:-9])
    assert "was cut or changed" in fails(capsys, "index", "query", str(cut), good)
