"""Keys for tests, made once."""

from __future__ import annotations

from coterie.evidence.keys import SigningKey

ALICE, MALLORY = SigningKey.new(), SigningKey.new()
