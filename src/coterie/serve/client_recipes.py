"""How to point each client at a server: one recipe per client, for `--print-config` and docs/integrations.md.

A recipe is a template in `integrations/`, named after the client: a title, where the settings go, one block
of code, and remarks.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from coterie.config import ConfigError
from coterie.config.base import suggest

KEY_VARIABLE = "COTERIE_API_KEY"  # recipes name the variable, never the key
_FEW, _SHARE = 8192, 4  # a reply is planned with a quarter of the context, and with few tokens at most
_CONTAINER = "host.docker.internal"  # what a container calls the machine that it runs on


@dataclass(frozen=True)
class ClientFacts:
    """What a recipe is filled with. `host`: where the server listens; `context`: tokens, reply included."""

    model: str
    context: int
    host: str = "127.0.0.1"
    port: int = 8000
    https: bool = False
    keyed: bool = False
    tools: bool = True
    reasoning: bool = False

    @property
    def url(self) -> str:
        """The address for a client on this machine, without a path."""
        return self._address(
            {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(self.host, self.host)
        )

    @property
    def container_url(self) -> str:
        """The address for a client in a container on this machine."""
        here = self.host in ("localhost", "::1", "::", "0.0.0.0", "") or self.host.startswith("127.")
        return self._address(_CONTAINER if here else self.host)

    def _address(self, host: str) -> str:
        named = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"http{'s' if self.https else ''}://{named}:{self.port}"


@dataclass(frozen=True)
class ClientRecipe:
    """A recipe filled in: `where` the `block` (code of `language`) goes, and `remarks` about it."""

    title: str
    where: str
    language: str
    block: str
    remarks: str

    @property
    def section(self) -> str:
        """The recipe as a section of a page."""
        return f"## {self.title}\n\n{self.where}```{self.language}\n{self.block}```\n\n{self.remarks}"


@cache
def clients() -> tuple[str, ...]:
    """The names of all clients that have a recipe."""
    suffix = ".md.jinja"
    files = (resources.files("coterie.serve") / "integrations").iterdir()
    return tuple(sorted(file.name.removesuffix(suffix) for file in files if file.name.endswith(suffix)))


def check_client(name: str) -> str:
    """The name itself. Errors: `ConfigError` for a client without a recipe."""
    if name not in clients():
        hint = suggest(name, clients())
        raise ConfigError(f"--print-config: no client '{name[:40]}'{hint}; known: {', '.join(clients())}")
    return name


def recipe(client: str, facts: ClientFacts) -> ClientRecipe:
    """The recipe of a client. Errors: `ConfigError` for a client without one."""
    import jinja2

    file = resources.files("coterie.serve") / "integrations" / f"{check_client(client)}.md.jinja"
    environment = jinja2.Environment(
        variable_start_string="[=",
        variable_end_string="=]",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"json": _json, "sh": shlex.quote}
    text = environment.from_string(file.read_text(encoding="utf-8")).render(_values(facts))
    parts = re.fullmatch(r"# ([^\n]+)\n\n(.*?)```(\w+)\n(.*?)```\n\n(.*)", text, re.S)
    assert parts is not None, f"{file.name} is not a title, a place, a block and remarks"
    return ClientRecipe(*parts.groups())


def _values(facts: ClientFacts) -> dict[str, Any]:
    keyed = facts.keyed
    return {
        "model": facts.model,
        "context": facts.context,
        "reply": max(1, min(_FEW, facts.context // _SHARE)),
        "url": facts.url,
        "v1": facts.url + "/v1",
        "container_v1": facts.container_url + "/v1",
        "tools": facts.tools,
        "reasoning": facts.reasoning,
        "keyed": keyed,
        "key_sh": f'"${KEY_VARIABLE}"' if keyed else "none",
        "key_python": f'os.environ["{KEY_VARIABLE}"]' if keyed else '"none"',
        "key_js": f"process.env.{KEY_VARIABLE}" if keyed else "'none'",
    }


def _json(value: Any) -> str:
    """A value as JSON, which is also a literal of YAML, TOML, Python (texts) and JavaScript."""
    return json.dumps(value, ensure_ascii=False)
