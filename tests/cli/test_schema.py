"""`coterie schema`: an editor accepts and rejects the same settings as the program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cli.support import call, fails

CONFIGS, RECIPES = (Path(__file__).parents[2] / name for name in ("configs", "recipes"))


def schema(kind: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    call("schema", kind)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def test_the_shipped_configs_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    found = schema("train", capsys)
    files = sorted(CONFIGS.glob("*.yaml"))
    assert files
    for path in files:
        jsonschema.validate(yaml.safe_load(path.read_text()), found)
    with pytest.raises(jsonschema.ValidationError, match="optimizer"):
        jsonschema.validate({"optimizer": {}}, found)


def test_distillations_take_short_forms(capsys: pytest.CaptureFixture[str]) -> None:
    found = schema("distill", capsys)
    jsonschema.validate({"student": "m", "teacher": "t", "data": "primer", "targets": {"k": 8}}, found)
    jsonschema.validate({"student": {"from": "m", "layers": 3}, "examples": ["x.jsonl"]}, found)
    for wrong in ({"teacher": 3}, {"targets": {"kind": "some"}}, {"weighting": {"most": 2}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, found)


def test_the_shipped_pipelines_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    found = schema("pipeline", capsys)
    files = [path for path in sorted(RECIPES.glob("*.yaml")) if "stages" in yaml.safe_load(path.read_text())]
    assert files
    for path in files:
        jsonschema.validate(yaml.safe_load(path.read_text()), found)
    with pytest.raises(jsonschema.ValidationError, match="kind"):
        jsonschema.validate({"task": "parity", "stages": [{"name": "rows"}]}, found)


def test_distillation_on_policy_has_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    found = schema("on-policy", capsys)
    jsonschema.validate({"student": "s", "teacher": "t", "task": "parity", "steps": 3}, found)
    with pytest.raises(jsonschema.ValidationError, match="data"):
        jsonschema.validate({"student": "s", "teacher": "t", "data": "primer"}, found)


def test_tuning_takes_the_names_of_other_tools(capsys: pytest.CaptureFixture[str]) -> None:
    found = schema("tune", capsys)
    jsonschema.validate({"base_model": "m", "data": "x.jsonl", "method": "lora", "lora_r": 8}, found)
    jsonschema.validate({"model": "m", "data": "x.jsonl", "target_modules": ["q_proj"]}, found)
    for wrong in ({"rank": 0}, {"lora_r": 0}, {"method": "loro"}, {"rang": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"model": "m", "data": ["x.jsonl"]} | wrong, found)


def test_another_kind_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "tune" in fails(capsys, "schema", "serve")
