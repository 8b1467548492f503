"""The bill of materials: valid by CycloneDX's schema, complete, and the same for the same release."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
import torch
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from coterie.release.sbom import bill_of_materials
from tests.release.reports import DIGEST, report, task


def test_the_document_is_valid() -> None:
    document = bill_of_materials(report(task("arithmetic", 0.5)), "apache-2.0")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None


def test_the_validator_sees_a_fault() -> None:
    document = bill_of_materials(report(task("arithmetic", 0.5)), "apache-2.0")
    document["components"].append(document["components"][-1] | {"type": "liberry"})
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is not None


def test_it_names_the_model_the_commit_and_what_is_installed() -> None:
    profile = report(task("a", 0.5)).exec_profile.to_dict() | {"commit": "c0ffee", "dirty": True}
    document = bill_of_materials(report(task("a", 0.5), exec_profile=profile), "mit")
    model = document["metadata"]["component"]
    assert {"name": "coterie:weights_tensors", "value": DIGEST} in model["properties"]
    [tool] = document["metadata"]["tools"]["components"]
    assert {"name": "coterie:commit", "value": "c0ffee"} in tool["properties"]
    assert {"name": "coterie:changed_since_commit", "value": "true"} in tool["properties"]
    versions = {one["name"]: one["version"] for one in document["components"]}
    assert versions["torch"] == importlib.metadata.version("torch")
    assert torch.__version__.startswith(versions["torch"].partition("+")[0])
    assert versions["huggingface-hub"] == importlib.metadata.version("huggingface_hub")
    refs = [one["bom-ref"] for one in document["components"]]
    assert len(set(refs)) == len(refs) and document["dependencies"][0]["dependsOn"] == refs


def test_the_same_release_has_the_same_document(monkeypatch: pytest.MonkeyPatch) -> None:
    first = bill_of_materials(report(task("a", 0.5)), "mit")
    assert bill_of_materials(report(task("a", 0.5)), "mit") == first
    other = report(task("a", 0.5), subject={"name": "tiny", "weights_tensors": "sha256:" + "6" * 64})
    assert bill_of_materials(other, "mit")["serialNumber"] != first["serialNumber"]
