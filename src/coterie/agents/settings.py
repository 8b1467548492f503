"""The settings of an agent: what it may use, when it must stop, and how it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from coterie.agents.approval import Policy
from coterie.agents.loop import Budget
from coterie.agents.speaker import Sampling
from coterie.config import Settings

_DEFAULT = Budget()


class AgentSettings(Settings):
    """What `coterie agent` can be asked for besides the model and the task."""

    dir: Path | None = Field(None, description="Folder whose files it may read, list and write.")
    python: bool = Field(True, description="Python in the sandbox.")
    allow_http: tuple[str, ...] = Field((), description="Host it may fetch pages of (repeatable).")
    mcp: Path | None = Field(None, description="File with MCP servers (mcpServers) whose tools it may use.")
    approve: Policy = Field(
        "ask", description="Calls that write: ask, all or none; without a terminal ask is none."
    )
    max_steps: int = Field(_DEFAULT.steps, ge=1, description="Replies it may give.")
    budget_tokens: int = Field(_DEFAULT.tokens, ge=1, description="Tokens read and written in all.")
    budget_seconds: float = Field(_DEFAULT.seconds, ge=1, description="Seconds in all.")
    tool_seconds: float = Field(_DEFAULT.tool_seconds, ge=0.1, description="Seconds for one call of a tool.")
    transcript: Path | None = Field(
        None, description="File for the conversation: tuning data, and to resume."
    )
    resume: Path | None = Field(None, description="Continue a transcript (TASK, if given, is said next).")
    system: str | None = Field(None, description="System message.")
    temperature: float | None = Field(
        None, ge=0, description="0 always takes the most likely token (default: the model's, or else 0.7)."
    )
    top_p: float | None = Field(
        None,
        description="Sample from the fewest tokens that hold this share of the probability (default: the "
        "model's, or else 0.95).",
    )
    max_tokens: int | None = Field(None, ge=1, description="Longest reply, in tokens (default: what fits).")
    seed: int | None = Field(None, description="Same seed, same reply.")

    @model_validator(mode="after")
    def _resumed_alone(self) -> Self:
        if self.resume is not None and (self.transcript or self.system):
            raise ValueError("--resume has its own transcript and --system; leave out both")
        return self

    @property
    def budget(self) -> Budget:
        """When the agent must stop."""
        return Budget(self.max_steps, self.budget_tokens, self.budget_seconds, self.tool_seconds)

    @property
    def sampling(self) -> Sampling:
        """How its replies are drawn."""
        return Sampling(self.temperature, self.top_p, self.max_tokens, self.seed)

    @property
    def file(self) -> Path | None:
        """The transcript that is written: the resumed one, if any."""
        return self.resume or self.transcript
