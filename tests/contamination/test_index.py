"""The file of an index: read back as written, and refused where it was cut, changed or of other rules."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from coterie.config.errors import DataError
from coterie.contamination.index import ContaminationIndex, false_finds_bound
from coterie.contamination.sketch import SketchKey
from tests.contamination.support import index_of, words


@pytest.fixture
def built() -> ContaminationIndex:
    rng = random.Random(0)
    texts = [words(rng, 60) + "\nQ: What is it called?\nA: Zub\n" for _ in range(30)]
    return index_of(texts, ["a", "b", "b"] * 10)


def test_an_index_survives_its_file(built: ContaminationIndex, tmp_path: Path):
    built.write(tmp_path / "one.index")
    found = ContaminationIndex.open(tmp_path / "one.index")
    assert found.header == built.header
    for name, array in built.arrays.items():
        assert np.array_equal(found.arrays[name], array)
        assert np.array_equal(load_file(tmp_path / "one.index")[name], array)  # others can read it
    built.write(tmp_path / "two.index")
    assert ContaminationIndex.open(tmp_path / "two.index").digest == found.digest


def test_the_size_is_what_the_design_says(tmp_path: Path):
    """Bytes a unit: 2.28 exact and 0.68 at a rate of 1e-4, within the noise of 60,000 units."""
    index = index_of([words(random.Random(3), 60_000)])
    sketch = index.sketch(1e-4)
    assert index.arrays["fingerprints"].nbytes / 60_000 == pytest.approx(2.286, rel=0.02)
    assert sketch.arrays["fingerprints"].nbytes / 60_000 == pytest.approx(0.685, rel=0.02)


def test_a_sketch_holds_no_names_and_no_documents(built: ContaminationIndex, tmp_path: Path):
    sketch = built.sketch(1e-4)
    sketch.write(tmp_path / "s.index")
    found = ContaminationIndex.open(tmp_path / "s.index")
    assert not {"documents", "document_source"} & found.arrays.keys()
    assert (found.header.files, found.header.sources) == ([], {})
    assert found.has(built.arrays["fingerprints"]).all()
    assert found.has_piece(built.arrays["pieces"]).all()
    often = found.frequency(built.arrays["frequent"])
    assert often.documents.tolist() == built.arrays["frequent_documents"].tolist()


def test_a_keyed_sketch_answers_its_key_only(built: ContaminationIndex, tmp_path: Path):
    key = SketchKey.of(b"secret" * 5)
    built.sketch(1e-6, key).write(tmp_path / "k.index")
    values = built.arrays["fingerprints"]
    assert ContaminationIndex.open(tmp_path / "k.index", key).has(values).all()
    with pytest.raises(DataError, match="needs a key; give --key-file"):
        ContaminationIndex.open(tmp_path / "k.index")
    with pytest.raises(DataError, match="needs another key"):
        ContaminationIndex.open(tmp_path / "k.index", SketchKey.of(b"other" * 5))
    built.write(tmp_path / "plain.index")
    with pytest.raises(DataError, match="has no key; leave --key-file out"):
        ContaminationIndex.open(tmp_path / "plain.index", key)
    stolen = ContaminationIndex(built.sketch(1e-6, key).header, built.sketch(1e-6, key).arrays)
    assert not stolen.has(values).any()


def test_only_an_exact_index_can_be_exported(built: ContaminationIndex):
    with pytest.raises(DataError, match="export from the exact index"):
        built.sketch(1e-4).sketch(1e-4)
    with pytest.raises(DataError, match="not a probability"):
        built.sketch(1.0)


def test_a_cut_file_is_refused(built: ContaminationIndex, tmp_path: Path):
    path = tmp_path / "a.index"
    built.write(path)
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut or changed|not an index"):
            ContaminationIndex.open(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(DataError, match="cut or changed"):
        ContaminationIndex.open(path)
    with pytest.raises(DataError, match="no such index; build one"):
        ContaminationIndex.open(tmp_path / "none.index")


def changed(path: Path, **changes: object) -> None:
    """Rewrite the header that a file states."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    about = json.loads(raw[8 : 8 + size])
    header = json.loads(about["__metadata__"]["coterie"]) | changes
    about["__metadata__"]["coterie"] = json.dumps(header)
    text = json.dumps(about).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "was built with format 2, this version reads 1"),
        ({"normalisation": "nfc-1"}, "was built with normalisation 'nfc-1'"),
        ({"gram": 5}, "was built with gram 5"),
        ({"kind": "magic"}, "'kind'"),
        ({"fingerprints": 3}, "its tables and its header disagree"),
    ],
)
def test_an_index_of_other_rules_is_refused(built: ContaminationIndex, tmp_path: Path, changes, message):
    path = tmp_path / "a.index"
    built.write(path)
    changed(path, **changes)
    with pytest.raises(DataError, match=message) as error:
        ContaminationIndex.open(path)
    assert "\n" not in str(error.value)


def test_chance_in_a_sketch():
    assert false_finds_bound(10, 0.5, 0) == 1
    assert false_finds_bound(2, 0.5, 1) == pytest.approx(0.75)
    assert false_finds_bound(27, 1e-4, 3) == pytest.approx(2925e-12, rel=0.01)
    assert false_finds_bound(27, 0.0, 1) == 0
