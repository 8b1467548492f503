"""What drafts of a reply are made from, as a setting."""

from __future__ import annotations

from typing import Literal

# `lookup`: what followed the same tokens earlier in prompt and reply. `mtp`: the model's layers for
# multi-token prediction. `auto`: drafts where they change no bit and pay. `off`: none.
Speculate = Literal["off", "auto", "lookup", "mtp"]
