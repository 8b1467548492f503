"""How a model on the hub is named: `owner/name`, `owner/name@revision`, `owner/name:Q4_K_M`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

MAIN = "main"
_NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@(?P<revision>[\w./-]+))?(?::(?P<quant>[\w.-]+))?",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubName:
    """`repo`: owner/name. `revision`: a branch, tag or commit; None for main. `quant`: of a GGUF file."""

    repo: str
    revision: str | None = None
    quant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The parts of a name; None for a text of another form."""
        match = _NAME.fullmatch(text)
        return None if match is None else cls(match["repo"], match["revision"], match["quant"])

    @property
    def asked(self) -> str:
        """The revision as the hub names it."""
        return self.revision or MAIN

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{self.repo}{revision}{'' if self.quant is None else f':{self.quant}'}"


@dataclass(frozen=True)
class HubRevision:
    """Which files a directory holds: those of `repo` at `commit`."""

    repo: str
    commit: str

    def __str__(self) -> str:
        return f"{self.repo}@{self.commit}"


def is_commit(revision: str) -> bool:
    """Whether a revision is a whole commit hash, which never comes to mean other files."""
    return _COMMIT.fullmatch(revision) is not None
