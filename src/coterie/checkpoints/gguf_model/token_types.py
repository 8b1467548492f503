"""What kind of token each id of a GGUF file's vocabulary is (`tokenizer.ggml.token_type`)."""

from __future__ import annotations

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
