"""The one byte form of a record, and the Merkle tree of RFC 6962."""

from __future__ import annotations

import hashlib
import math

import pytest

from coterie.config import CoterieError
from coterie.evidence.canonical import canonical, digest_bytes, digest_of, merkle_root
from coterie.results.intervals import Estimate


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_keys_are_sorted_and_floats_are_text() -> None:
    assert canonical({"b": 1, "a": [0.1, None, True, "ü"]}) == '{"a":["0.1",null,true,"ü"],"b":1}'.encode()
    assert canonical(Estimate(value=0.5, low=1e-30, high=2.0)) == (
        b'{"high":"2.0","low":"1e-30","value":"0.5"}'
    )
    assert digest_of({"x": 1.5}) == digest_of({"x": "1.5"}) == digest_bytes(b'{"x":"1.5"}')


def test_what_has_no_form_is_refused_in_one_line() -> None:
    for value in (math.inf, math.nan, {"x": [math.inf]}, 2**60, {"x": object()}, {"x": b"raw"}):
        with pytest.raises(CoterieError, match="canonical form") as caught:
            canonical(value)
        assert "\n" not in str(caught.value)


def test_the_root_is_that_of_rfc_6962() -> None:
    """By its recursive definition: split at the largest power of two below the number of leaves."""

    def root(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return sha(b"\0" + leaves[0])
        half = 1 << (len(leaves) - 1).bit_length() - 1
        return sha(b"\1" + root(leaves[:half]) + root(leaves[half:]))

    for count in range(1, 20):
        leaves = [bytes([n]) * n for n in range(count)]
        assert merkle_root(leaves) == f"sha256:{root(leaves).hex()}"
    assert merkle_root([]) == f"sha256:{sha(b'').hex()}"
    assert merkle_root([b"ab"]) != merkle_root([b"a", b"b"])
