"""Conversations that teach a model trained on the primer to use the tools of `coterie agent`.

Tools are described as in the OpenAI API: sums for the calculator, small programs for Python, and talk that
needs no tool.
"""

from collections.abc import Iterator
from typing import Any

from coterie.primer import dialogues
from coterie.primer.base import Rng
from coterie.primer.dialogues import Message
from coterie.primer.talk import GREETINGS, TOPICS
from coterie.text.tools import AGENT_SYSTEM, CALCULATOR, LIST_FILES, PYTHON, READ_FILE, WRITE_FILE, function

COUNT = 720
_SYSTEMS = (
    dialogues.SYSTEM,
    "You add.",
    "You are good at sums.",
    "Use your tools.",
    "Answer the question, with tools.",
)
_FILES = (LIST_FILES, READ_FILE, WRITE_FILE)


def lessons(seed: int = 0, count: int = COUNT) -> Iterator[dict[str, Any]]:
    """`count` records with `messages` and `tools`, the same for ever for the same seed.

    No sum among them is one that the primer keeps for probes (`arithmetic.reserved`).
    """
    return (_lesson(Rng("lessons", seed, index)) for index in range(count))


def _lesson(rng: Rng) -> dict[str, Any]:
    tools = [CALCULATOR] if rng.chance(0.4) else [CALCULATOR, PYTHON]
    sums = rng.between(5, 8)  # many in a row: what is to be learnt is to copy, and descriptions teach nothing
    if rng.chance(0.1):
        tools, sums = [*tools, *_FILES], 2
    described = rng.between(0, 9)
    if described < 4:  # as clients describe their functions
        tools = [_by_a_client(tool, strict=described < 2, titles=described % 2 == 0) for tool in tools]
    kind = rng.between(0, 9)
    if kind < 2:
        talk = dialogues.exchange(rng, GREETINGS if kind == 0 else TOPICS)
    elif kind == 2 and PYTHON["function"]["name"] in {tool["function"]["name"] for tool in tools}:
        talk = dialogues.program(rng)
    else:
        talk = [message for _ in range(sums) for message in dialogues.sum_with_calculator(rng)]
    return {"messages": [*_system(rng), *talk], "tools": tools}


def _system(rng: Rng) -> list[Message]:
    if rng.chance(0.2):
        return []
    return [{"role": "system", "content": AGENT_SYSTEM if rng.chance(0.6) else rng.pick(_SYSTEMS)}]


def _by_a_client(tool: dict[str, Any], strict: bool, titles: bool) -> dict[str, Any]:
    """The same function, described shortly and with what `openai-agents` and pydantic add."""
    name, parameters = tool["function"]["name"], tool["function"]["parameters"]
    properties = {
        key: {**({"title": key.replace("_", " ").title()} if titles else {}), "type": "string"}
        for key in parameters["properties"]
    }
    schema = {"properties": properties, "required": parameters["required"], "type": "object"}
    schema |= {"title": f"{name}_args", "additionalProperties": False} if titles else {}
    short = function(name, tool["function"]["description"].split(";")[0].split(" (")[0] + ".", schema)
    return {**short, "function": {**short["function"], "strict": strict}}
