"""Tasks of reasoning-gym (extra `gym`), with their problems and none of their scorers.

A reply is judged by the one strict grammar: the text behind `Answer:` must be the task's answer. Its own
scorers pay for replies that hold the answer somewhere, and `game_of_life_halting` for any text (0.1.25).
"""

from __future__ import annotations

from typing import Any

from coterie.config import ConfigError, suggest
from coterie.primer.base import Rng
from coterie.tasks.problem import TaskError, TaskFamily, TaskProblem

# With one right answer, in a prompt that a small model can read, made in milliseconds (0.1.25).
KNOWN = (
    "basic_arithmetic", "bitwise_arithmetic", "caesar_cipher", "calendar_arithmetic", "chain_sum",
    "count_bits", "count_primes", "decimal_chain_sum", "gcd", "isomorphic_strings", "largest_island",
    "lcm", "leg_counting", "letter_counting", "number_sequence", "prime_factorization", "products",
    "ransom_note", "simple_equations", "spell_backward", "time_intervals",
)  # fmt: skip
# Left out by name, with the reason.
HOLES = {
    "game_of_life_halting": "its scorer compares texts as truth values, so every reply is right",
    "list_functions": "the same seed gives other problems",
    **dict.fromkeys(
        ("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"),
        "it knows no right answer",
    ),
}


class GymTask(TaskFamily):
    """One dataset of reasoning-gym. All of its problems are of level 0."""

    says = "a task of reasoning-gym, judged strictly"
    levels = (0,)

    def __init__(self, dataset: str) -> None:
        if dataset in HOLES:
            raise ConfigError(f"task gym:{dataset}: it cannot be trained on: {HOLES[dataset]}")
        if dataset not in KNOWN:
            raise ConfigError(
                f"task gym:{dataset} is not known{suggest(dataset, KNOWN)}; choose {', '.join(KNOWN)}"
            )
        try:
            import reasoning_gym
        except ImportError:
            raise TaskError(
                f"task gym:{dataset}: reasoning-gym is not installed; pip install 'coterie[gym]'"
            ) from None
        self._gym: Any = reasoning_gym
        self._dataset = dataset
        self.name = f"gym:{dataset}"  # type: ignore[misc]

    def draw(self, rng: Rng, level: int) -> TaskProblem:
        """Problem of a random seed."""
        entry = self._gym.create_dataset(self._dataset, size=1, seed=rng.between(0, 2**31 - 1))[0]
        answer = str(entry["answer"]).strip()
        return TaskProblem(self.name, level, str(entry["question"]), answer)
