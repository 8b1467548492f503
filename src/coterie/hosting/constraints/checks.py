"""Checks finished replies against the schemas of requests, where a grammar does not enforce all of them.

The check runs in a separate process: a pattern of a request may take for ever, and Python cannot stop it.
This file is also that process's program.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SECONDS = 3.0
MEMORY = 512 * 2**20
# jsonschema imports this where it is installed (lm-eval brings it), which takes 4 s; it reads addresses only.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def wrong_schema(schema: Mapping[str, Any]) -> tuple[str, str] | None:
    """The place and reason for which something is not a JSON schema; None for a schema of any draft."""
    validator = _validator_of(schema)
    import jsonschema

    try:
        validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        return _pointer(error.absolute_path), error.message[:200]
    except Exception as error:  # it trusts schemas, and fails in many ways
        return "", f"cannot be read as a schema ({type(error).__name__})"
    return None


def verdict(found: Sequence[tuple[str, Mapping[str, Any], str]]) -> str:
    """What became of the schemas of one reply: "satisfied", "violated: POINTER why" or "unchecked: why".

    `found`: for each, the pointer to it in the request, the schema, and the JSON text that must satisfy it.
    """
    asked = json.dumps([[pointer, schema, text] for pointer, schema, text in found])
    program = [sys.executable, "-I", str(Path(__file__))]
    try:
        done = subprocess.run(program, input=asked, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"unchecked: the check took longer than {SECONDS:g} seconds"
    return done.stdout.strip() or "unchecked: the check failed"


def _validator_of(schema: Mapping[str, Any]) -> Any:
    """The validator of the draft that a schema names, else of the newest in which it is a schema."""
    import jsonschema

    drafts = [jsonschema.Draft202012Validator, jsonschema.Draft7Validator, jsonschema.Draft4Validator]
    named = jsonschema.validators.validator_for(schema, default=None) if "$schema" in schema else None
    for draft in [named, *drafts]:
        try:
            if draft is not None:
                draft.check_schema(schema)
                return draft
        except Exception:
            continue
    return drafts[0]


def _problem(pointer: str, schema: Mapping[str, Any], text: str) -> str | None:
    import jsonschema
    from jsonschema_specifications import REGISTRY

    try:
        value = json.loads(text)
        # The default registry would fetch the addresses that a schema refers to.
        errors = _validator_of(schema)(schema, registry=REGISTRY).iter_errors(value)
        error = jsonschema.exceptions.best_match(errors)
    except Exception as broken:  # a schema that refers to nothing, a pattern that Python does not know
        return f"unchecked: {pointer} cannot be used ({type(broken).__name__})"
    if error is None:
        return None
    return f"violated: {pointer}{_pointer(error.absolute_schema_path)} {error.message[:200]}"


def _pointer(path: Any) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)[:200]


def _main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS) + 1, int(SECONDS) + 1))
    problems = [_problem(*one) for one in json.load(sys.stdin)]
    print(json.dumps(next((p for p in problems if p is not None), "satisfied"))[1:-1])


if __name__ == "__main__":
    _main()
