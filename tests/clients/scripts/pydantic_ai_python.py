"""pydantic-ai over chat and Responses; a part is `chat tools`, `responses stream` and so on."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Literal

import pydantic
from parts import DOG, ENDLESS, GREETING, MOST, SUM, calculator, main
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.output import NativeOutput
from pydantic_ai.providers.openai import OpenAIProvider


class Dog(pydantic.BaseModel):
    name: Literal["Rex", "Fido"]
    age: int = pydantic.Field(ge=1, le=9)


def agent(url: str, **more: Any) -> Agent:
    kind = OpenAIResponsesModel if sys.argv[2].startswith("responses") else OpenAIChatModel
    model = kind("tiny", provider=OpenAIProvider(base_url=url + "/v1", api_key="none"))
    return Agent(model, retries=0, model_settings={"temperature": 0, "max_tokens": MOST}, **more)


def plain(url: str) -> Any:
    return agent(url).run_sync(GREETING).output


def stream(url: str) -> Any:
    async def read() -> str:
        async with agent(url).run_stream(GREETING) as run:
            return "".join([piece async for piece in run.stream_text(delta=True)])

    return asyncio.run(read())


def tools(url: str) -> Any:
    more = {"temperature": 0, "max_tokens": 200}
    return agent(url, tools=[calculator]).run_sync(SUM, model_settings=more).output


def structured(url: str) -> Any:
    """By a tool that must be called, and by the response's format: both must give a dog."""
    more = {"temperature": 0, "max_tokens": 100}
    dogs = [
        agent(url, output_type=kind).run_sync(DOG, model_settings=more).output.model_dump()
        for kind in (Dog, NativeOutput(Dog))
    ]
    return dogs[0] if all(Dog(**dog) for dog in dogs) else dogs


def cancel(url: str) -> Any:
    async def leave() -> int:
        settings = {"max_tokens": 20_000}
        async with agent(url).run_stream(ENDLESS, model_settings=settings) as run:
            count = 0
            async for _ in run.stream_text(delta=True, debounce_by=None):
                count += 1
                if count == 3:
                    break
            return count

    async def soon() -> int:
        return await asyncio.wait_for(leave(), 60)

    return asyncio.run(soon())


PARTS = {"": plain, " stream": stream, " tools": tools, " structured": structured, " cancel": cancel}
main({api + part: run for api in ("chat", "responses") for part, run in PARTS.items()})
