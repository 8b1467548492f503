"""Signed statements: an in-toto Statement v1 in a DSSE envelope, about subjects that digests name.

What is signed are canonical bytes. An envelope is accepted in one form only, so that no byte of it can change
and the signature still hold.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coterie.config import CoterieError
from coterie.config.json_text import JsonError, JsonLimits, parse_json_object
from coterie.evidence.canonical import canonical
from coterie.evidence.keys import PublicKey, SigningKey

EVAL_REPORT = "urn:coterie:eval-report:v1"
EQUIVALENCE = "urn:coterie:equivalence:v1"
REPRODUCED = "urn:coterie:reproduced:v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
Envelope = dict[str, Any]  # JSON types: payload, payloadType, signatures

_STATEMENT = "https://in-toto.io/Statement/v1"
_PAYLOAD = "application/vnd.in-toto+json"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_LIMITS = JsonLimits(size=256 * 2**20)


@dataclass(frozen=True)
class Statement:
    """A statement whose signature was checked.

    `subjects`: name -> `sha256:...`. `predicate_type`: a URN of this project's, or in-toto's. `predicate`:
    what is said, in JSON types; numbers with a fraction are text. `signers`: digests of the keys that signed.
    """

    subjects: Mapping[str, str]
    predicate_type: str
    predicate: Mapping[str, Any]
    signers: tuple[str, ...]


def sign_statement(
    key: SigningKey, subjects: Mapping[str, str], predicate_type: str, predicate: Any
) -> Envelope:
    """The envelope of a new statement about `subjects` (name -> `sha256:...`).

    `predicate`: a record or JSON types. Errors: `CoterieError` for no subject, a digest of another form, and
    a predicate without a canonical form.
    """
    if not subjects:
        raise CoterieError("statement: names no subject; give the digests that it is about")
    listed = []
    for name, digest in sorted(subjects.items()):
        found = _DIGEST.fullmatch(digest)
        if found is None:
            raise CoterieError(f"statement: the digest of '{name}' is not sha256: and 64 digits")
        listed.append({"name": name, "digest": {"sha256": found[1]}})
    statement = {
        "_type": _STATEMENT,
        "subject": listed,
        "predicateType": predicate_type,
        "predicate": parse_json_object(canonical(predicate), _LIMITS),
    }
    return key.sign_envelope(canonical(statement), _PAYLOAD)


def verify_statement(envelope: Any, keys: Sequence[PublicKey], where: str = "statement") -> Statement:
    """The statement of an envelope that one of `keys` has signed. `where`: for messages.

    Errors: `CoterieError`, one line, for another form, a signature that does not hold, and a signer whose key
    is not among `keys`.
    """
    payload, names = _payload(envelope, where)
    known = {key.key_id: key for key in keys}
    chosen = [known[name] for name in names if name in known]
    if not chosen:
        given = f"; the given keys are {', '.join(short(name) for name in known)}" if known else ""
        raise CoterieError(
            f"{where}: was signed by the key {', '.join(short(name) for name in names) or 'of nobody'}"
            f"{given}; give the signer's .pub file"
        )
    _check_signatures(envelope, chosen, where)
    try:
        data = parse_json_object(payload, _LIMITS)
    except JsonError as error:
        raise CoterieError(f"{where}: what was signed {error}") from None
    if data.get("_type") != _STATEMENT or not isinstance(data.get("predicate"), dict):
        raise CoterieError(f"{where}: what was signed is not an in-toto statement ({_STATEMENT})")
    signers = tuple(key.key_id for key in chosen)
    return Statement(_subjects(data, where), str(data.get("predicateType")), data["predicate"], signers)


def signers_of(envelope: Any, where: str = "statement") -> tuple[str, ...]:
    """The digests of the keys that an envelope says have signed it; nothing is checked."""
    return tuple(_payload(envelope, where)[1])


def short(digest: str) -> str:
    """A digest for people: its first twelve digits."""
    return digest.removeprefix("sha256:")[:12]


def _check_signatures(envelope: Envelope, keys: Sequence[PublicKey], where: str) -> None:
    """Every one of `keys` must have signed. Errors: `CoterieError`."""
    from securesystemslib.dsse import Envelope as Dsse
    from securesystemslib.exceptions import VerificationError

    signatures = [dict(one) for one in envelope["signatures"]]  # reading changes them
    try:
        opened = Dsse.from_dict({**envelope, "signatures": signatures})
        opened.verify([key.for_envelopes() for key in keys], len(keys))
    except VerificationError:
        raise CoterieError(
            f"{where}: the signature does not hold: what was signed was changed, or another key signed"
        ) from None


def _payload(envelope: Any, where: str) -> tuple[bytes, list[str]]:
    """What an envelope holds and the keys that it names. Errors: `CoterieError` for any other form."""
    try:
        if set(envelope) != {"payload", "payloadType", "signatures"} or envelope["payloadType"] != _PAYLOAD:
            raise ValueError
        names = []
        for one in envelope["signatures"]:
            if set(one) != {"keyid", "sig"} or not isinstance(one["keyid"], str) or one["keyid"] in names:
                raise ValueError
            _decoded(one["sig"])
            names.append(one["keyid"])
        return _decoded(envelope["payload"]), names
    except (TypeError, ValueError, KeyError):
        raise CoterieError(f"{where}: is not a DSSE envelope of an in-toto statement") from None


def _decoded(text: Any) -> bytes:
    """The bytes of base64 in its one form. Errors: `ValueError`, `TypeError`."""
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError from None
    if base64.b64encode(content).decode() != text:
        raise ValueError
    return content


def _subjects(data: Mapping[str, Any], where: str) -> dict[str, str]:
    try:
        return {str(one["name"]): f"sha256:{one['digest']['sha256']}" for one in data["subject"]}
    except (TypeError, KeyError):
        raise CoterieError(f"{where}: its subjects have no names or no sha256") from None
