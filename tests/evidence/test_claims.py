"""`claims.jsonl`: written by several processes at once, and every bad line named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from coterie.config import CoterieError
from coterie.evidence.canonical import canonical, digest_bytes
from coterie.evidence.claims import append_claim, read_claims, verified_claims
from coterie.evidence.statements import EVAL_REPORT, REPRODUCED, sign_statement
from tests.evidence.keys import ALICE, MALLORY

SUBJECT = {"weights_tensors": digest_bytes(b"w")}


def test_claims_come_back_in_order_with_their_signers(tmp_path: Path) -> None:
    file = tmp_path / "model" / "claims.jsonl"
    append_claim(file, sign_statement(ALICE, SUBJECT, EVAL_REPORT, {"n": 1}))
    append_claim(file, sign_statement(MALLORY, SUBJECT, REPRODUCED, {"n": 2}))
    found = verified_claims(file, [ALICE.public, MALLORY.public])
    assert [(one.predicate_type, one.predicate["n"]) for one in found] == [(EVAL_REPORT, 1), (REPRODUCED, 2)]
    with pytest.raises(CoterieError, match=r"claims\.jsonl: line 2: was signed by the key"):
        verified_claims(file, [ALICE.public])


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "claims.jsonl"
    append_claim(file, sign_statement(ALICE, SUBJECT, EVAL_REPORT, {"score": "0.5"}))
    good = file.read_bytes()
    cases = {
        good + b"{]\n": "line 2 is not valid JSON",
        good + b"{}\n": "line 2: is not a DSSE envelope",
        good + b"\n": "line 2 is not valid JSON",
        good + good[:40]: "line 2 was never finished",
        good.replace(b'{"payload"', b'{ "payload"'): "line 1: is not in canonical form",
    }
    for content, says in cases.items():
        file.write_bytes(content)
        with pytest.raises(CoterieError, match=says) as caught:
            read_claims(file)
        assert "\n" not in str(caught.value)
    claim = json.loads(good)
    claim["payload"] = (
        claim["payload"][:-8] + ("A" if claim["payload"][-8] != "A" else "B") + claim["payload"][-7:]
    )
    file.write_bytes(canonical(claim) + b"\n")
    with pytest.raises(CoterieError, match="line 1: the signature does not hold"):
        verified_claims(file, [ALICE.public])
    with pytest.raises(CoterieError, match="cannot be read"):
        read_claims(tmp_path / "missing.jsonl")
    with pytest.raises(CoterieError, match="not a DSSE envelope"):
        append_claim(file, {"score": 1})


def test_processes_that_append_at_once_leave_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "claims.jsonl"
    program = (
        "import sys; from pathlib import Path; from coterie.evidence.lines import append_line\n"
        "for n in range(50): append_line(Path(sys.argv[1]), lambda last: (sys.argv[2] * 3000).encode())"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(file), mark]) for mark in "abc"]
    assert [one.wait() for one in running] == [0, 0, 0]
    lines = file.read_bytes().splitlines()
    assert len(lines) == 150 and all(len(line) == 3000 and len(set(line)) == 1 for line in lines)
