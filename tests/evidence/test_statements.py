"""Signed statements: the right key opens them, and no changed byte and no other key does."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest

from coterie.config import CoterieError
from coterie.evidence.canonical import canonical, digest_bytes
from coterie.evidence.statements import (
    EQUIVALENCE,
    TEST_RESULT,
    sign_statement,
    signers_of,
    verify_statement,
)
from tests.evidence.keys import ALICE, MALLORY

SUBJECTS = {"weights_tensors": digest_bytes(b"tensors"), "tokenizer": digest_bytes(b"tokens")}
PREDICATE = {"agreement": 0.25, "items": 128, "source": SUBJECTS["tokenizer"], "deep": {"a": [None, True]}}


@pytest.fixture(scope="module")
def envelope() -> dict[str, Any]:
    return sign_statement(ALICE, SUBJECTS, EQUIVALENCE, PREDICATE)


def test_the_signed_statement_comes_back_whole(envelope: dict[str, Any]) -> None:
    found = verify_statement(envelope, [MALLORY.public, ALICE.public])
    assert found.subjects == SUBJECTS and found.predicate_type == EQUIVALENCE
    assert found.predicate == PREDICATE | {"agreement": "0.25"}  # a number with a fraction is signed as text
    assert found.signers == (ALICE.key_id,) == signers_of(envelope)
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    digests = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    assert digests == {name: digest.removeprefix("sha256:") for name, digest in SUBJECTS.items()}


def test_the_signature_is_over_the_bytes_that_dsse_says(envelope: dict[str, Any]) -> None:
    """Computed here from the words of the protocol, with nothing of the library that signs."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    Ed25519PublicKey.from_public_bytes(ALICE.public.raw).verify(signature, signed)


def test_no_changed_byte_of_an_envelope_is_accepted(envelope: dict[str, Any]) -> None:
    """Each byte is changed in turn: its last bit, and to bytes that JSON or base64 might skip."""
    line = canonical(envelope)
    accepted = []
    for place in range(len(line)):
        for other in (line[place] ^ 1, ord(" "), ord("=")):
            changed = line[:place] + bytes([other]) + line[place + 1 :]
            if changed == line:
                continue
            try:
                verify_statement(json.loads(changed), [ALICE.public])
            except (CoterieError, ValueError):
                continue
            accepted.append((place, changed[max(0, place - 20) : place + 20]))
    assert accepted == []


def test_another_key_is_refused_and_named(envelope: dict[str, Any]) -> None:
    with pytest.raises(CoterieError, match=f"signed by the key {ALICE.key_id[7:19]}.*given keys are"):
        verify_statement(envelope, [MALLORY.public], "claims.jsonl: line 3")
    with pytest.raises(CoterieError, match="signed by the key"):
        verify_statement(envelope, [])
    forged = copy.deepcopy(envelope)
    forged["signatures"][0]["keyid"] = MALLORY.key_id  # a signature that is not hers under her name
    with pytest.raises(CoterieError, match="does not hold"):
        verify_statement(forged, [MALLORY.public, ALICE.public])
    swapped = sign_statement(MALLORY, SUBJECTS, EQUIVALENCE, PREDICATE)
    swapped["signatures"] = copy.deepcopy(envelope["signatures"])
    assert swapped["payload"] == envelope["payload"]  # signing is of content alone
    verify_statement(swapped, [ALICE.public])
    other = sign_statement(ALICE, SUBJECTS, EQUIVALENCE, PREDICATE | {"items": 129})
    other["signatures"] = copy.deepcopy(envelope["signatures"])
    with pytest.raises(CoterieError, match="does not hold"):
        verify_statement(other, [ALICE.public])


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        {"payload": "AA==", "payloadType": "text/plain", "signatures": []},
        {"payload": "A", "payloadType": "application/vnd.in-toto+json", "signatures": []},
        {"payload": "AB==", "payloadType": "application/vnd.in-toto+json", "signatures": []},
        {"payload": "AA==", "payloadType": "application/vnd.in-toto+json", "signatures": [{"keyid": 1}]},
    ],
)
def test_what_is_no_envelope_is_refused_in_one_line(broken: Any) -> None:
    with pytest.raises(CoterieError, match=r"^here: is not a DSSE envelope") as caught:
        verify_statement(broken, [ALICE.public], "here")
    assert "\n" not in str(caught.value)


def test_a_further_key_in_an_envelope_is_refused(envelope: dict[str, Any]) -> None:
    with pytest.raises(CoterieError, match="not a DSSE envelope"):
        verify_statement(envelope | {"note": "unsigned"}, [ALICE.public])


def test_a_signed_text_that_is_no_statement_is_refused() -> None:
    for payload, says in ((b"no", "what was signed is not valid JSON"), (b"{}", "not an in-toto statement")):
        envelope = ALICE.sign_envelope(payload, "application/vnd.in-toto+json")
        with pytest.raises(CoterieError, match=says):
            verify_statement(envelope, [ALICE.public])


def test_a_statement_needs_subjects_with_digests() -> None:
    with pytest.raises(CoterieError, match="names no subject"):
        sign_statement(ALICE, {}, TEST_RESULT, {})
    for digest in ("abc", "sha256:" + "A" * 64, "md5:" + "0" * 64):
        with pytest.raises(CoterieError, match="the digest of 'x' is not sha256"):
            sign_statement(ALICE, {"x": digest}, TEST_RESULT, {})
    with pytest.raises(CoterieError, match="no canonical form"):
        sign_statement(ALICE, SUBJECTS, TEST_RESULT, {"score": float("nan")})
