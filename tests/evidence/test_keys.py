"""Key files: what is written, who may read it, and everything that is not a key."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from coterie.config import CoterieError
from coterie.evidence.keys import SigningKey, read_public_key
from tests.evidence.keys import ALICE, MALLORY


def test_a_written_key_is_read_back_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    public = ALICE.write(tmp_path / "keys" / "alice")
    private = tmp_path / "keys" / "alice"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert public == tmp_path / "keys" / "alice.pub" and "PRIVATE" not in public.read_text()
    assert SigningKey.read(private).key_id == ALICE.key_id == read_public_key(public).key_id
    assert read_public_key(private) == ALICE.public  # the private half knows the public one
    assert ALICE.key_id != MALLORY.key_id and SigningKey.new().key_id != SigningKey.new().key_id


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    ALICE.write(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(CoterieError, match="exists already"):
        MALLORY.write(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before
    (tmp_path / "other.pub").write_text("")
    with pytest.raises(CoterieError, match=r"other\.pub: exists already"):
        MALLORY.write(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_is_not_an_ed25519_key_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "key"
    elliptic = generate_private_key(SECP256R1())
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = serialization.BestAvailableEncryption(b"word")
    cases = {
        b"": "holds no private key",
        b"no key at all": "holds no private key",
        ALICE.public.pem().encode(): "is a public key",
        elliptic.private_bytes(*pem, serialization.NoEncryption()): "is not an Ed25519 key",
        elliptic.private_bytes(*pem, secret): "is protected by a password",
        b"x" * 20_000: "too large",
    }
    for content, says in cases.items():
        file.write_bytes(content)
        with pytest.raises(CoterieError, match=says) as caught:
            SigningKey.read(file)
        assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    for content in (b"", b"-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----\n"):
        file.write_bytes(content)
        with pytest.raises(CoterieError, match="holds no public key"):
            read_public_key(file)
    for read in (SigningKey.read, read_public_key):
        with pytest.raises(CoterieError, match="cannot be read"):
            read(tmp_path / "missing")
