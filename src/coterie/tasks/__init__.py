"""Tasks whose answers a program can check: problems, worked replies, rewards, and their check."""

from __future__ import annotations

from pathlib import Path

from coterie.config import ConfigError, suggest
from coterie.tasks.compositions import Composition
from coterie.tasks.countdown import Countdown
from coterie.tasks.own import read_task
from coterie.tasks.parity import Parity, RunningSum
from coterie.tasks.problem import TaskFamily
from coterie.tasks.small_programs import SmallPrograms
from coterie.tasks.sums import ChainSum, Multiplication
from coterie.tasks.tool_chains import ToolChains

TASKS: dict[str, type[TaskFamily]] = {
    family.name: family
    for family in (
        Parity,
        RunningSum,
        ChainSum,
        Multiplication,
        Composition,
        Countdown,
        SmallPrograms,
        ToolChains,
    )
}
_FILES = (".py", ".json", ".jsonl")


def load_task(name: str) -> TaskFamily:
    """The built-in task of this name, or the one in a file of this path.

    Errors: `ConfigError` with the closest known name; `TaskError` for a file that is not a task.
    """
    if name in TASKS:
        return TASKS[name]()
    if name.startswith("gym:"):
        from coterie.tasks.gym import GymTask

        return GymTask(name.removeprefix("gym:"))
    if name.endswith(_FILES):
        return read_task(Path(name))
    known = ", ".join(TASKS)
    raise ConfigError(
        f"task '{name}' does not exist{suggest(name, TASKS)}; choose {known}, or name a .py or .jsonl file"
    )
