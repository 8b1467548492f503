"""Recipes of clients: each block is well-formed whatever the model is called, and holds no key."""

from __future__ import annotations

import ast
import json
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from coterie.config import ConfigError
from coterie.serve.client_recipes import ClientFacts, check_client, clients, recipe

ODD = 'owner/it\'s: a "model" #1'


def parsed(language: str, block: str) -> Any:
    if language == "json":
        return json.loads(block)
    if language == "toml":
        return tomllib.loads(block)
    if language == "yaml":
        return yaml.safe_load(block)
    if language == "python":
        return ast.unparse(ast.parse(block))
    if language == "sh":
        subprocess.run(["sh", "-n"], input=block, text=True, check=True)
    return block


@pytest.mark.parametrize("keyed", [False, True], ids=["open", "keyed"])
@pytest.mark.parametrize("client", clients())
def test_a_recipe_is_well_formed(client: str, keyed: bool) -> None:
    found = recipe(client, ClientFacts(ODD, 4096, port=8123, keyed=keyed))
    text = parsed(found.language, found.block)
    assert "8123" in str(text) and "[=" not in found.section and "=]" not in found.section
    assert ("COTERIE_API_KEY" in found.section) == (keyed or client == "qwen-code")
    if client not in ("ollama", "claude-code"):  # these are given the address alone
        assert "8123/v1" in str(text)
    if found.language in ("json", "toml", "yaml"):
        assert repr(ODD) in repr(text) or f"coterie/{ODD}" in json.dumps(text, ensure_ascii=False)
    assert found.section.startswith(f"## {found.title}\n") and found.remarks.endswith(".\n")


def test_the_limits_reach_the_clients() -> None:
    facts = ClientFacts("m", 4096)
    codex, opencode = (parsed(r.language, r.block) for r in (recipe(c, facts) for c in ("codex", "opencode")))
    assert codex["model_context_window"] == 4096 and "env_key" not in codex["model_providers"]["coterie"]
    assert opencode["provider"]["coterie"]["models"]["m"]["limit"] == {"context": 4096, "output": 1024}
    keyed = parsed("toml", recipe("codex", ClientFacts("m", 4096, keyed=True)).block)
    assert keyed["model_providers"]["coterie"]["env_key"] == "COTERIE_API_KEY"


@pytest.mark.parametrize(
    ("host", "url", "container"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000", "http://host.docker.internal:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000", "http://host.docker.internal:8000"),
        ("::", "http://[::1]:8000", "http://host.docker.internal:8000"),
        ("fd00::1", "http://[fd00::1]:8000", "http://[fd00::1]:8000"),
        ("box.lan", "http://box.lan:8000", "http://box.lan:8000"),
    ],
)
def test_addresses(host: str, url: str, container: str) -> None:
    facts = ClientFacts("m", 4096, host=host)
    assert (facts.url, facts.container_url) == (url, container)
    assert ClientFacts("m", 4096, host=host, https=True).url == url.replace("http", "https")


def test_an_unknown_client_gets_a_hint() -> None:
    with pytest.raises(ConfigError, match=r"no client 'codx' \(did you mean 'codex'\?\); known: ai-sdk, "):
        check_client("codx")
