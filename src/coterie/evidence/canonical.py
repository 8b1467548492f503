"""The one byte form of a record, and its digest (RFC 8785, JSON Canonicalization Scheme)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import rfc8785

from coterie.config import CoterieError, Settings


def canonical(value: Any) -> bytes:
    """The canonical bytes of a record or of JSON types.

    A float is written as text, with as many digits as are needed to read the same float again: programs of
    other languages print floats otherwise. Errors: `CoterieError` for a value without a JSON form, such as
    an infinite number.
    """
    data = value.to_dict() if isinstance(value, Settings) else value
    try:
        return rfc8785.dumps(_as_text(data))
    except (rfc8785.CanonicalizationError, TypeError) as error:
        raise CoterieError(f"record: has no canonical form ({error})") from None


def digest_of(value: Any) -> str:
    """`sha256:` and the digest of the canonical bytes. Errors: as `canonical`."""
    return digest_bytes(canonical(value))


def digest_bytes(data: bytes) -> str:
    """`sha256:` and the digest of bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def merkle_root(leaves: Iterable[bytes]) -> str:
    """Root of the Merkle tree over byte strings in order (RFC 6962, section 2.1), as `sha256:...`.

    A leaf is hashed behind a byte 0 and an inner node behind a byte 1, so neither can pass for the other.
    """
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    if not level:
        return digest_bytes(b"")
    while len(level) > 1:
        pairs = [
            hashlib.sha256(b"\1" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)
        ]
        level = pairs + ([level[-1]] if len(level) % 2 else [])
    return f"sha256:{level[0].hex()}"


def _as_text(value: Any) -> Any:
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise CoterieError(f"record: {value} has no canonical form; only finite numbers can be signed")
        return repr(value)
    if isinstance(value, Mapping):
        return {str(key): _as_text(item) for key, item in value.items()}
    return [_as_text(item) for item in value] if isinstance(value, list | tuple) else value
