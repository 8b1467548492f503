"""Every reason to refuse a release: each test changes one thing of a release that may go out."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from coterie.config import CoterieError
from coterie.evidence.canonical import digest_of
from coterie.evidence.keys import SigningKey
from coterie.evidence.ledger import Ledger, LookOutcome
from coterie.evidence.statements import short
from coterie.hosting.host import Host
from coterie.identity.tensors import stored_weight_tree
from coterie.infer.model import load
from coterie.release.bundle import sign_waivers
from coterie.release.gate import refusals
from coterie.release.report_files import ReportFiles
from coterie.results.evaluation import EvalReport
from coterie.serve.server import ServerThread
from coterie.verify.known import known_identity
from tests.release.released import (
    case,
    change_tensor,
    commit_again,
    key,
    sign_report,
    write_model,
    write_report,
)
from tests.release.reports import DIGEST
from tests.serve.support import service

EXPERT = "model.layers.1.mlp.experts.3.down_proj.weight"


@pytest.fixture(scope="module", params=["moe", "dense"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its signed report."""
    folder = tmp_path_factory.mktemp(request.param)
    write_report(write_model(folder / "model", dense=request.param == "dense"), folder / "report")
    return folder


@pytest.fixture()
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    write_report(write_model(folder / "model"), folder / "report")
    return folder


def reasons(folder: Path, **more: Any) -> list[str]:
    return [str(one) for one in refusals(case(folder / "model", folder / "report", **more))]


def changed(folder: Path, signer: SigningKey | None = None, **changes: Any) -> None:
    """Write another report, signed again, as somebody would who had such a result."""
    shutil.rmtree(folder / "report")
    write_report(folder / "model", folder / "report", signer, **changes)


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the report and sign it again."""
    file = folder / "report" / "report.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    (folder / "report" / "claims.jsonl").unlink()
    sign_report(folder / "report", key())


def test_a_whole_release_may_go_out(made: Path) -> None:
    assert reasons(made) == []


def test_one_expert_changed_after_the_scores(mixture: Path, tmp_path: Path) -> None:
    shutil.copytree(mixture, tmp_path / "copy")
    tree = stored_weight_tree(tmp_path / "copy" / "model")
    change_tensor(tmp_path / "copy" / "model", EXPERT, lambda tensor: tensor + 0.25)
    commit_again(tmp_path / "copy" / "model")
    found = reasons(tmp_path / "copy")
    assert any(one.startswith("identity: the report is of the weights") for one in found)
    assert any("(layer 1: expert 3)" in one for one in reasons(tmp_path / "copy", tree=tree))


def test_another_tokenizer_or_template(copy: Path) -> None:
    file = copy / "model" / "tokenizer.json"
    data = json.loads(file.read_text())
    data["model"]["merges"] = data["model"]["merges"][:-1]
    file.write_text(json.dumps(data))
    (copy / "model" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    commit_again(copy / "model")
    found = " | ".join(reasons(copy))
    assert "the report is of the tokenizer" in found and "the report is of the chat template" in found


def test_a_report_without_a_signature_of_another_key_and_changed_after_it(copy: Path) -> None:
    assert "holds statements of the key" in reasons(copy, keys=[key("other").public])[0]
    file = copy / "report" / "report.json"
    file.write_text(file.read_text().replace('"value": 0.75', '"value": 0.85'))
    [found] = reasons(copy)
    assert "was changed after the key" in found
    (copy / "report" / "claims.jsonl").unlink()
    [found] = reasons(copy)
    assert "is not signed" in found


def test_an_edited_statement(copy: Path) -> None:
    claims = copy / "report" / "claims.jsonl"
    line = claims.read_text()
    place = line.index('"sig":"') + 12
    claims.write_text(line[:place] + ("A" if line[place] != "A" else "B") + line[place + 1 :])
    assert "signature does not hold" in " ".join(reasons(copy))
    claims.write_text(line[:-40])
    assert "line 1" in " ".join(reasons(copy))


def test_scores_that_their_records_do_not_give(copy: Path) -> None:
    edit(copy, lambda data: data["tasks"][0]["score"].update(value=0.6))
    assert any("the report says 0.6000, and its records give" in one for one in reasons(copy))
    samples = copy / "report" / "samples" / "lists.jsonl"
    samples.write_text("\n".join(samples.read_text().splitlines()[:-1]) + "\n")
    assert any("holds 39 records, and the report says 40" in one for one in reasons(copy))
    samples.unlink()
    assert any("lists.jsonl: there is no such file" in one for one in reasons(copy))


def test_a_record_that_was_turned(copy: Path) -> None:
    samples = copy / "report" / "samples" / "lists.jsonl"
    samples.write_text(samples.read_text().replace('"reply":"it is 7"', '"reply":"it is 8"'))
    assert [one for one in reasons(copy) if "other records than the report was made of" in one]


def test_no_plan_and_a_plan_that_came_too_late(copy: Path) -> None:
    changed(copy, plan=None)
    assert reasons(copy)[0].startswith("plan: the report names no plan")
    changed(copy, plan={"digest": DIGEST, "locked_at": "2026-11-01T13:00:00Z"})
    assert "after the report was made" in reasons(copy)[0]


def look(copy: Path, items: str, tensors: str) -> None:
    Ledger(copy / "ledger").record(
        tensors, "a", items, DIGEST, [LookOutcome(digest=DIGEST, cluster="1", score=1)]
    )


def test_a_look_before_the_plan_was_locked(copy: Path) -> None:
    def numbered(data: dict[str, Any]) -> None:
        for number, one in enumerate(data["tasks"]):
            one["items"] = f"sha256:{number:064}"
        data["plan"]["ledger_pos"] = 1

    edit(copy, numbered)
    tensors = stored_weight_tree(copy / "model").root
    look(copy, f"sha256:{0:064}", tensors)
    look(copy, f"sha256:{1:064}", tensors)
    [early] = [one for one in reasons(copy, ledger=copy / "ledger") if one.startswith("plan")]
    assert "arithmetic was first looked at" in early
    lines = (copy / "ledger").read_text().splitlines(keepends=True)
    (copy / "ledger").write_text(lines[1])
    assert any("does not continue the start" in one for one in reasons(copy, ledger=copy / "ledger"))


def test_a_score_that_the_ledger_does_not_know(copy: Path) -> None:
    (copy / "ledger").touch()
    found = reasons(copy, ledger=copy / "ledger")
    assert "has no look at it" in found[0]


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (None, "names no stage"),
        ({"name": "tune", "tokens": 10}, "the stage tune has no index"),
        ({"name": "tune", "index": DIGEST, "index_coverage": 0.5}, "holds 50.00% of the tokens"),
        ({"name": "tune", "index": DIGEST}, "holds unknown of the tokens"),
    ],
)
def test_an_index_that_is_missing_or_not_complete(copy: Path, stage: Any, words: str) -> None:
    edit(copy, lambda data: data["training"].update(stages=[stage] if stage else []))
    [found] = reasons(copy)
    assert found.startswith("index: ") and words in found
    flag = "index:tune" if stage else "training:stages"
    assert reasons(copy, waivers=sign_waivers(key(), {flag: "the base is not ours"})) == []


def test_a_flag_needs_a_signed_waiver(copy: Path) -> None:
    changed(copy, verdict="REFUSE", flags=["lists:D9", "lists:D2"])
    assert [one[:16] for one in reasons(copy)] == ["flag: lists:D9 i", "flag: lists:D2 i"]
    [left] = reasons(copy, waivers=sign_waivers(key(), {"lists:D9": "read by hand"}))
    assert "lists:D2" in left
    assert not reasons(copy, waivers=sign_waivers(key(), {"lists:D9": "read", "lists:D2": "read"}))
    with pytest.raises(CoterieError, match="needs a reason"):
        sign_waivers(key(), {"lists:D9": " "})


def test_scores_that_depend_on_the_batch(copy: Path) -> None:
    edit(copy, lambda data: data["exec_profile"].update(dropless=False, batch_invariant=None))
    assert [one.partition(":")[0] for one in reasons(copy)] == ["profile"] * 2
    facts = {"compositions": 5, "items": 4, "max_abs_dlogprob": 0.0, "flip_rate": 0.0, "span": 0.0}
    edit(copy, lambda data: data["tasks"][0].update(invariance=facts | {"dropped_tokens": 3}))
    assert any("arithmetic: 3 tokens were dropped" in one for one in reasons(copy))


def test_a_number_that_is_not_in_the_report(copy: Path) -> None:
    [found] = reasons(copy, prose={"ABOUT.md": "Fine.\n\nIt has 91.2 % on GSM8K."})
    assert found == "number: ABOUT.md line 3 says '91.2 %' of GSM8K, which the report does not hold"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(safety=None), "no safety section"),
        (lambda data: data["training"].update(manifest=None), "does not name the facts of the training"),
        (lambda data: data.update(tasks=[]), "scores no task"),
    ],
)
def test_a_report_that_lacks_a_part(copy: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    edit(copy, change)
    [found] = reasons(copy)
    assert found.startswith("missing: ") and words in found


def test_files_that_are_missing(copy: Path) -> None:
    assert reasons(copy, licence=None)[0].startswith("missing: there is no licence")
    (copy / "model" / "LICENSE").write_text(" \n")
    assert "is not a file with the text of a licence" in reasons(copy)[0]
    (copy / "model" / "coterie.json").unlink()
    assert any("has no coterie.json" in one for one in reasons(copy))
    (copy / "model" / "tokenizer.json").unlink()
    found = " | ".join(reasons(copy))
    assert "the directory has no tokenizer" in found and "of the tokenizer" in found


def test_a_model_without_a_chat_template(copy: Path) -> None:
    (copy / "model" / "chat_template.jinja").unlink()
    settings = json.loads((copy / "model" / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (copy / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    commit_again(copy / "model")
    assert any("has no chat template" in one for one in reasons(copy))


def test_all_reasons_are_listed(copy: Path) -> None:
    changed(copy, key("other"), plan=None, safety=None, verdict="REFUSE", flags=["lists:D9"])
    rules = [one.partition(":")[0] for one in reasons(copy, licence=None)]
    assert rules == ["signature", "plan", "flag", "missing", "missing"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(schema_name="other/v2"), "is of the schema 'other/v2'"),
        (lambda data: data.pop("schema_name"), "names no schema"),
        (lambda data: data.update(verdict="GOOD"), "'verdict'"),
    ],
)
def test_a_report_of_another_form_is_one_line(
    copy: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    file = copy / "report" / "report.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(CoterieError) as stop:
        ReportFiles.read(copy / "report")
    assert words in str(stop.value) and "\n" not in str(stop.value)


class _Nothing(BaseHTTPRequestHandler):
    """A server that knows no path."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal of the tests."""


@pytest.fixture()
def nothing() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Nothing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_advertised_server_must_serve_these_weights(copy: Path, nothing: str) -> None:
    with ServerThread(Host.of(service(load(copy / "model")))) as server:
        assert reasons(copy, endpoints=[server.url]) == []
    changed = load(copy / "model")
    with torch.no_grad():
        changed.model.blocks[1].attention.o.weight[0, 0] += 0.25
    with ServerThread(Host.of(service(changed))) as server:
        [found] = reasons(copy, endpoints=[server.url])
        served = known_identity(server.url).identity.weights_tensors
        assert found.startswith(f"endpoint: {server.url} serves the weights {short(served)}, and the report")
    [found] = reasons(copy, endpoints=[nothing])
    assert found.startswith("endpoint: ") and "does not say which weights it runs" in found
    assert "endpoint: " in reasons(copy, endpoints=["http://127.0.0.1:9"])[0]


def test_a_report_is_read_with_numbers_as_text(copy: Path) -> None:
    """What was signed holds numbers as text; both forms are the same report."""
    files = ReportFiles.read(copy / "report")
    signed = EvalReport.from_dict(files.statement([key().public]).predicate)
    assert signed.tasks == files.report.tasks and digest_of(signed) == files.digest
