"""Ed25519 keys: made, kept in files of mode 0600, and named by the digest of their public half."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie.config import CoterieError
from coterie.config.files import read_bytes, write_text
from coterie.config.temporaries import replace_with, temporary
from coterie.evidence.canonical import digest_bytes

if TYPE_CHECKING:  # imports of half a second, wanted only where something is signed or checked
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import SSlibKey

_PRIVATE = b"PRIVATE KEY"
_LARGEST = 16_384  # bytes of a file with one key


@dataclass(frozen=True)
class PublicKey:
    """The half of a key that checks signatures. `raw`: its 32 bytes."""

    raw: bytes

    @cached_property
    def key_id(self) -> str:
        """Digest of the key, `sha256:...`."""
        return digest_bytes(self.raw)

    def pem(self) -> str:
        """The text of a `.pub` file."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        key = Ed25519PublicKey.from_public_bytes(self.raw)
        form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return key.public_bytes(*form).decode()

    def for_envelopes(self) -> SSlibKey:
        """The key as securesystemslib takes it."""
        from securesystemslib.signer import SSlibKey

        return SSlibKey(self.key_id, "ed25519", "ed25519", {"public": self.raw.hex()})


class SigningKey:
    """A private key. Build one with `new` or `read`."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @staticmethod
    def new() -> SigningKey:
        """A fresh key from the system's random numbers."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return SigningKey(Ed25519PrivateKey.generate())

    @staticmethod
    def read(path: str | Path) -> SigningKey:
        """The private key in a PEM file.

        Errors: `CoterieError`, one line, for a file that cannot be read, is protected by a password, or holds
        something else than an Ed25519 private key.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        found = _loaded(path, partial(load_pem_private_key, password=None), "private")
        if not isinstance(found, Ed25519PrivateKey):
            raise CoterieError(f"{path}: is not an Ed25519 key; make one with coterie key new -o FILE")
        return SigningKey(found)

    @cached_property
    def public(self) -> PublicKey:
        """The other half."""
        return PublicKey(self._private.public_key().public_bytes_raw())

    @property
    def key_id(self) -> str:
        """Digest of the public half."""
        return self.public.key_id

    def sign_envelope(self, payload: bytes, payload_type: str) -> dict[str, Any]:
        """A DSSE envelope of the payload with this key's signature, as JSON types."""
        from securesystemslib.dsse import Envelope
        from securesystemslib.signer import CryptoSigner

        envelope = Envelope(payload, payload_type, {})
        envelope.sign(CryptoSigner(self._private, self.public.for_envelopes()))
        found: dict[str, Any] = envelope.to_dict()
        return found

    def write(self, path: str | Path) -> Path:
        """Write the private key, for its owner alone, and its public half next to it; the path of the latter.

        Errors: `CoterieError` where a file is there already, or cannot be written.
        """
        from cryptography.hazmat.primitives import serialization

        private, public = Path(path), Path(f"{path}.pub")
        for file in (private, public):
            if os.path.lexists(file):
                raise CoterieError(f"{file}: exists already; a key that is lost cannot be made again")
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        try:
            private.parent.mkdir(parents=True, exist_ok=True)
            with temporary(private) as part:
                part.chmod(0o600)
                part.write_bytes(self._private.private_bytes(*form))
                replace_with(part, private)
            write_text(public, self.public.pem())
        except OSError as error:
            raise CoterieError(f"{path}: cannot be written ({error.strerror})") from None
        return public


def read_public_key(path: str | Path) -> PublicKey:
    """The public key in a `.pub` file, or that of a private key's file.

    Errors: `CoterieError`, one line, for anything that is not an Ed25519 key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if _PRIVATE in _content(path):
        return SigningKey.read(path).public
    found = _loaded(path, load_pem_public_key, "public")
    if not isinstance(found, Ed25519PublicKey):
        raise CoterieError(f"{path}: is not an Ed25519 key; give the .pub file of the signer")
    return PublicKey(found.public_bytes_raw())


def _loaded(path: str | Path, load: Callable[[bytes], Any], kind: str) -> Any:
    """What `load` makes of a PEM file. Errors: `CoterieError` for one without a key of this kind."""
    content = _content(path)
    advice = "make one with coterie key new -o FILE" if kind == "private" else "give the signer's .pub file"
    try:
        return load(content)
    except TypeError:
        raise CoterieError(
            f"{path}: is protected by a password, which is not asked for here; {advice}"
        ) from None
    except ValueError:
        damaged = kind == "public" or b"PUBLIC KEY" not in content
        what = f"holds no {kind} key (PEM)" if damaged else "is a public key"
        raise CoterieError(f"{path}: {what}; {advice}") from None


def _content(path: str | Path) -> bytes:
    try:
        content = read_bytes(path, _LARGEST)
    except OSError as error:
        raise CoterieError(f"{path}: cannot be read ({error.strerror}); give the file of a key") from None
    if len(content) > _LARGEST:
        raise CoterieError(f"{path}: is too large for a key; give the file of a key")
    return content
