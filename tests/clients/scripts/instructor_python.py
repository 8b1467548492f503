"""instructor in its modes of the OpenAI API; the part is the name of a mode."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import Any, Literal

import instructor
import openai
import pydantic
from parts import DOG, ENDLESS, main


class Dog(pydantic.BaseModel):
    name: Literal["Rex", "Fido"]
    age: int = pydantic.Field(ge=1, le=9)


class Note(pydantic.BaseModel):
    text: str = pydantic.Field(min_length=10_000)


def patched(url: str, mode: instructor.Mode) -> Any:
    plain = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    return instructor.from_openai(plain, mode=mode)


def most(mode: instructor.Mode, tokens: int) -> dict[str, int]:
    return {"max_output_tokens" if "RESPONSES" in mode.name else "max_tokens": tokens}


def one(url: str) -> Any:
    mode = instructor.Mode[sys.argv[2]]
    messages = [{"role": "user", "content": DOG}]
    kind = Iterable[Dog] if "PARALLEL" in mode.name else Dog
    made = patched(url, mode).create(
        response_model=kind, model="tiny", messages=messages, max_retries=0, **most(mode, 400)
    )
    return [dog.model_dump() for dog in made] if "PARALLEL" in mode.name else made.model_dump()


def partial(url: str) -> Any:
    """The dog as it grows; the last one is whole."""
    mode = instructor.Mode.TOOLS
    messages = [{"role": "user", "content": DOG}]
    grown = list(patched(url, mode).create_partial(
        response_model=Dog, model="tiny", messages=messages, max_retries=0, max_tokens=400
    ))  # fmt: skip
    return [len(grown), grown[-1].model_dump()]


def cancel(url: str) -> Any:
    """Its streams are read to their end, so a call that is given up is how to leave."""
    plain = openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    made = instructor.from_openai(plain, mode=instructor.Mode.TOOLS)
    messages = [{"role": "user", "content": ENDLESS}]

    async def leave() -> str:
        writing = made.create(
            response_model=Note, model="tiny", messages=messages, max_retries=0, max_tokens=20_000
        )
        try:
            await asyncio.wait_for(writing, 3)
        except TimeoutError:
            return "left"
        return "written to the end"

    return asyncio.run(leave())


main({**{mode.name: one for mode in instructor.Mode}, "partial": partial, "cancel": cancel})
