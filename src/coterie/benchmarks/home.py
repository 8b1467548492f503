"""A simulated house with lights, a heating and a door: a state that tool calls read and change."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from coterie.benchmarks.calls import arguments_of
from coterie.primer.base import Rng
from coterie.sandbox.tools import Tool, ToolError, call_tool
from coterie.text.tools import function

ROOMS = ("kitchen", "hall", "bedroom", "garage")
_ROOM = {"type": "string", "enum": list(ROOMS)}
State = dict[str, Any]


def _parameters(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


# Name -> what it does, and its parameters.
_TOOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "read_house": ("Read the state of the house. It changes nothing.", _parameters()),
    "set_light": ("Turn the light of a room on or off.", _parameters(room=_ROOM, on={"type": "boolean"})),
    "set_heating": (
        "Set the heating to a temperature.",
        _parameters(degrees={"type": "integer", "minimum": 5, "maximum": 30}),
    ),
    "set_door": ("Lock or unlock the front door.", _parameters(locked={"type": "boolean"})),
}


class HouseTool(Tool):
    """One function of the house, working on a shared state. `state` counts its changes."""

    writes = False  # nothing outside the simulation

    def __init__(self, name: str, state: State) -> None:
        self.name, self._state = name, state
        self.description, self.parameters = _TOOLS[name]

    def call(self, arguments: Mapping[str, Any], seconds: float) -> str:
        """What was read or done. Errors: `ToolError` for an unknown function."""
        state = self._state
        if self.name == "read_house":
            lights = ", ".join(f"{room} {'on' if on else 'off'}" for room, on in state["lights"].items())
            door = "locked" if state["locked"] else "unlocked"
            return f"lights: {lights}; heating: {state['degrees']} degrees; door: {door}"
        if self.name == "set_light":
            state["lights"][arguments["room"]] = arguments["on"]
        elif self.name == "set_heating":
            state["degrees"] = arguments["degrees"]
        elif self.name == "set_door":
            state["locked"] = arguments["locked"]
        else:
            raise ToolError(f"there is no function {self.name}")
        state["changes"] += 1
        return "done"


def house_tools(state: Mapping[str, Any]) -> list[HouseTool]:
    """The functions of a house that begins in a copy of `state`."""
    own: State = copy.deepcopy(dict(state))
    return [HouseTool(name, own) for name in _TOOLS]


def house_specs() -> list[dict[str, Any]]:
    """The functions as the OpenAI API describes them."""
    return [function(name, says, parameters) for name, (says, parameters) in _TOOLS.items()]


def after(state: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> State | str:
    """The state after calls in order, or why one of them cannot be made at all.

    A call whose arguments break its schema changes nothing, as in the simulation.
    """
    own: State = copy.deepcopy(dict(state))
    tools = {name: HouseTool(name, own) for name in _TOOLS}
    for call in calls:
        arguments = arguments_of(call)
        name = call.get("name")
        if not isinstance(name, str) or name not in tools:
            return f"calls {name!r:.60}, which is not there"
        if arguments is None:
            return f"the arguments of {name} are not an object"
        call_tool(tools[name], arguments)
    return own


def draw_house(rng: Rng) -> State:
    """A house in a random state."""
    return {
        "lights": {room: rng.chance(0.5) for room in ROOMS},
        "degrees": rng.between(12, 24),
        "locked": rng.chance(0.5),
        "changes": 0,
    }
