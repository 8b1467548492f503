"""Write docs/integrations.md from the recipes of clients; with --check, fail when it is not up to date."""

from __future__ import annotations

from pathlib import Path

from made_page import write_or_check

from coterie.serve.client_recipes import ClientFacts, clients, recipe

PAGE = Path(__file__).parent / "integrations.md"
EXAMPLE = ClientFacts(model="moe", context=32768)
INTRODUCTION = """# Clients and their settings

```sh
coterie serve runs/quickstart/moe/model --print-config list
coterie serve runs/quickstart/moe/model --print-config codex > ~/.codex/config.toml
```

`--print-config CLIENT` prints the settings of a client for the server that the other options describe: its
address, the model's name and its context. Nothing is started, and the weights are not read. The settings go
to standard output, and where they belong goes to standard error. `python docs/make_integrations.py` writes
this page from the same recipes, for a model `moe` of 32768 tokens at the default address.

- **Address**: clients of OpenAI's API want it with `/v1`, clients of Anthropic's and Ollama's without.
- **Model**: a client sends the name that `GET /v1/models` lists. `--alias gpt-4o` adds a name for a client
  that insists on one. An unknown name is a 404; no other model answers in its place.
- **Key**: a server without a key takes any. Most clients want some text, here `none`. With a key
  (`--api-key-file`), the settings name the variable `COTERIE_API_KEY`; set it where the client runs. The key
  itself is never printed.
- **Context**: a prompt that does not fit is refused, never cut, so tell the client the limit where it asks.
  Agents send ten thousand tokens and more before the first question.
- **Tools**: `GET /v1/models/NAME` says under `capabilities` whether the model's template shows tools. An
  agent cannot work with a model without them.

`coterie doctor URL` grades a server in all of these protocols.
"""


def render() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(recipe(name, EXAMPLE).section for name in clients())])


if __name__ == "__main__":
    write_or_check(PAGE, render())
