"""The bytes that a token of a vocabulary stands for."""

from __future__ import annotations


def _byte_of_char() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 and up."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


_BYTES = _byte_of_char()


def spell_byte_level(piece: str) -> bytes:
    """The bytes of a token of a byte-level vocabulary."""
    if all(char in _BYTES for char in piece):
        return bytes(_BYTES[char] for char in piece)
    return piece.encode()


def spell_sentencepiece(piece: str) -> bytes:
    """The bytes of a token in the form of SentencePiece: one byte, or text with marks for spaces."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()
