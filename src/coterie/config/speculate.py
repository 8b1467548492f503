"""What drafts of a reply are made from, as a setting."""

from __future__ import annotations

from typing import Literal

# `lookup`: what followed the same tokens earlier in prompt and reply. `auto`: the same where it changes no
# bit of a reply. `off`: none.
Speculate = Literal["off", "auto", "lookup"]
