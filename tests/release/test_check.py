"""What a receiver finds in a release that was changed: every byte of it is covered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import coterie
from coterie.checkpoints.commit import verify_directory
from coterie.config import CheckpointError, CoterieError
from coterie.config.files import read_json
from coterie.evidence.claims import CLAIMS, append_claim
from coterie.evidence.statements import REPRODUCED, sign_statement
from coterie.release.bundle import Publication, sign_waivers, write_bundle
from coterie.release.check import check_release
from coterie.release.layout import RELEASE
from tests.release.released import (
    LICENCE,
    case,
    change_tensor,
    commit_again,
    key,
    release,
    sign_report,
    write_model,
    write_report,
)
from tests.release.reports import DIGEST
from tests.release.test_gate import EXPERT

ABOUT = "A small model that adds.\n\nIts accuracy on arithmetic is 55 %."


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its report, and its release."""
    folder = tmp_path_factory.mktemp("released")
    write_report(write_model(folder / "model"), folder / "report")
    release(folder / "model", folder / "report", folder / "bundle", about=ABOUT)
    return folder


@pytest.fixture()
def bundle(released: Path, tmp_path: Path) -> Path:
    """A copy of the release that a test may change."""
    return Path(shutil.copytree(released / "bundle", tmp_path / "bundle"))


def reasons(bundle: Path, *names: str) -> list[str]:
    keys = [key(name).public for name in names or ("publisher",)]
    return [str(one) for one in check_release(bundle, keys).refusals]


def test_a_release_passes_and_is_the_same_model(released: Path, bundle: Path) -> None:
    checked = check_release(bundle, [key().public])
    assert checked.refusals == [] and checked.record is not None and checked.record.licence == "mit"
    assert checked.to_dict()["valid"] is True
    verify_directory(bundle)  # the manifest still lists the model's files
    ids = [5, 9, 2, 7]
    assert torch.equal(coterie.load(bundle).logits(ids), coterie.load(released / "model").logits(ids))
    assert (bundle / "LICENSE").read_text() == LICENCE and "55 %" in (bundle / "README.md").read_text()
    assert read_json(bundle / "sbom.json")["bomFormat"] == "CycloneDX"


def test_a_dense_model_is_released_too(tmp_path: Path) -> None:
    write_report(write_model(tmp_path / "model", dense=True), tmp_path / "report")
    record = release(tmp_path / "model", tmp_path / "report", tmp_path / "bundle")
    assert not record.routed and reasons(tmp_path / "bundle") == []
    assert "moe" not in (tmp_path / "bundle" / "README.md").read_text().partition("model-index")[0]


def test_every_file_is_covered(bundle: Path) -> None:
    for file in sorted(path for path in bundle.rglob("*") if path.is_file() and path.name != CLAIMS):
        before = file.read_bytes()
        middle = len(before) // 2
        file.write_bytes(before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :])
        name = file.relative_to(bundle).as_posix()
        try:
            found = reasons(bundle)
        except CoterieError as error:  # a report or a config that cannot be read at all
            assert name in ("report.json", "config.json", "coterie.json") and file.name in str(error)
        else:
            assert any(name in one for one in found), name
        file.write_bytes(before)
    assert reasons(bundle) == []


def test_every_byte_of_a_statement_is_covered(bundle: Path) -> None:
    file = bundle / CLAIMS
    before = file.read_bytes()
    for place in range(3, len(before) - 1, max(1, len(before) // 16)):
        file.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
        try:
            assert reasons(bundle), place
        except CoterieError as error:
            assert "\n" not in str(error)


def test_an_expert_that_was_changed_is_named(bundle: Path) -> None:
    change_tensor(bundle, EXPERT, lambda tensor: tensor.roll(1))
    found = " | ".join(reasons(bundle))
    assert "file: model.safetensors was changed" in found and "(layer 1: expert 3)" in found


def test_a_change_that_is_hidden_by_a_new_manifest(bundle: Path) -> None:
    change_tensor(bundle, EXPERT, lambda tensor: tensor.roll(1))
    shutil.move(bundle / CLAIMS, bundle.parent / CLAIMS)
    commit_again(bundle)
    shutil.move(bundle.parent / CLAIMS, bundle / CLAIMS)
    found = " | ".join(reasons(bundle))
    assert "coterie.json was changed" in found and "(layer 1: expert 3)" in found


def test_other_shards_are_other_files_and_the_same_weights(bundle: Path) -> None:
    change_tensor(bundle, EXPERT, lambda tensor: tensor)
    (bundle / "model.safetensors").rename(bundle / "other.safetensors")
    found = " | ".join(reasons(bundle))
    assert "other.safetensors is not part of the release" in found and "of the weights" not in found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text + "\nIt reaches 88.4 % on MMLU.\n", "says '88.4 %' of MMLU"),
        (lambda text: text.replace("**0.550**", "**0.750**"), "README.md"),
        (lambda text: text.replace("| none |", "| best |"), "not what the report is rendered to"),
        (lambda text: text.replace("value: 0.55\n", "value: 0.95\n"), "says '0.95'"),
    ],
)
def test_a_card_that_says_more_than_the_report(
    bundle: Path, change: Callable[[str], str], expected: str
) -> None:
    file = bundle / "README.md"
    before = file.read_text()
    file.write_text(change(before))
    assert file.read_text() != before
    found = [one for one in reasons(bundle) if one.startswith("card: ")]
    assert found and any(expected in one for one in found)


def test_a_card_of_another_version_may_have_other_words(bundle: Path) -> None:
    """Its numbers are still compared; its bytes are those that were signed."""
    file = bundle / "README.md"
    file.write_text(
        file.read_text()
        .replace("coterie 0.1.0 from", "coterie 0.0.9 from")
        .replace("## Scores", "## Results")
    )
    assert [one for one in reasons(bundle) if one.startswith("card: ")] == []
    file.write_text(file.read_text() + "\nMMLU: 91.5 %\n")
    assert [one for one in reasons(bundle) if one.startswith("card: ")]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "samples/lists.jsonl", "sbom.json", "LICENSE", "README.md"]
)
def test_a_file_that_is_missing(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    try:
        assert any(name in one and ("missing" in one or "cannot be read" in one) for one in reasons(bundle))
    except CheckpointError as error:
        assert name == "model.safetensors" and "\n" not in str(error)


def test_a_file_more(bundle: Path) -> None:
    (bundle / "extra.safetensors").write_bytes(b"\0" * 16)
    (bundle / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert any("extra.safetensors is not part of the release" in one for one in reasons(bundle))


def test_the_wrong_key_and_no_release(bundle: Path) -> None:
    found = reasons(bundle, "other")
    assert found[0].startswith("signature: no release is signed by the key")
    lines = (bundle / CLAIMS).read_text().splitlines(keepends=True)
    (bundle / CLAIMS).write_text(lines[0])
    assert "no release is signed" in reasons(bundle)[0]
    (bundle / CLAIMS).unlink()
    assert "holds none by others" in reasons(bundle)[0]


def test_a_release_statement_of_somebody_else(bundle: Path) -> None:
    """A second signature over other files is not the publisher's."""
    record = check_release(bundle, [key().public]).record
    assert record is not None
    (bundle / "README.md").write_text("# Another model\n")
    append_claim(bundle / CLAIMS, sign_statement(key("other"), {"README.md": DIGEST}, RELEASE, record))
    assert any("README.md was changed" in one for one in reasons(bundle))


def test_what_was_waived_and_reproduced_is_noted(tmp_path: Path) -> None:
    write_report(write_model(tmp_path / "model"), tmp_path / "report", verdict="REFUSE", flags=["lists:D9"])
    waivers = sign_waivers(key(), {"lists:D9": "read by hand"})
    published = Publication(key(), "owner/tiny", waivers=waivers)
    write_bundle(
        tmp_path / "bundle", case(tmp_path / "model", tmp_path / "report", waivers=waivers), published
    )
    for name in ("publisher", "other"):
        statement = sign_statement(key(name), {"weights_tensors": DIGEST}, REPRODUCED, {"items": 60})
        append_claim(tmp_path / "bundle" / CLAIMS, statement)
    checked = check_release(tmp_path / "bundle", [key().public])
    assert checked.refusals == []
    notes = " | ".join(checked.notes)
    assert "waived: lists:D9 (read by hand)" in notes and "reproduced by the key" in notes
    assert "was not checked" in notes
    assert "read by hand" in (tmp_path / "bundle" / "README.md").read_text()


def test_nothing_is_written_over_or_left_half(released: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="exists already"):
        release(released / "model", released / "report", released / "bundle")
    with pytest.raises(CoterieError, match=r"was not written; flag: .*not waived"):
        shutil.copytree(released, tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy" / "report")
        write_report(tmp_path / "copy/model", tmp_path / "copy/report", verdict="REFUSE", flags=["lists:D9"])
        release(tmp_path / "copy/model", tmp_path / "copy/report", tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_a_release_is_not_released_again(released: Path, bundle: Path, tmp_path: Path) -> None:
    """The same files again: the card and the statements are new, and the rest is the same."""
    release(bundle, bundle, tmp_path / "again")
    assert reasons(tmp_path / "again") == []
    kept = {"README.md", CLAIMS, "ABOUT.md"}
    for file in released.joinpath("bundle").rglob("*"):
        name = file.relative_to(released / "bundle").as_posix()
        if file.is_file() and name not in kept:
            assert file.read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_report_signed_by_an_evaluator(tmp_path: Path) -> None:
    """Two keys: one signs the report, the other the release, and a receiver needs both."""
    write_report(write_model(tmp_path / "model"), tmp_path / "report", key("lab"))
    both = [key("lab").public, key().public]
    release(tmp_path / "model", tmp_path / "report", tmp_path / "bundle", keys=both)
    assert reasons(tmp_path / "bundle", "publisher", "lab") == []
    assert any("is not signed by the key" in one for one in reasons(tmp_path / "bundle"))


def test_one_byte_of_the_report_and_a_new_signature_of_somebody_else(bundle: Path) -> None:
    file = bundle / "report.json"
    data = json.loads(file.read_text())
    data["tasks"][0]["score"].update(value=0.999, high=1.0)
    file.write_text(json.dumps(data))
    sign_report(bundle, key("other"))
    found = " | ".join(reasons(bundle))
    assert "file: report.json was changed" in found and "report.json: was changed after the key" in found
    assert "its records give" in found
