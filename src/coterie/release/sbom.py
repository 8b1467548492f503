"""The software behind a release as a CycloneDX 1.6 document: installed packages, Python, and this code."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import uuid
from collections.abc import Iterator
from typing import Any

from coterie.results.evaluation import EvalReport

SPEC = "1.6"
_NAMESPACE = uuid.UUID("6f1b9a3e-7f0c-5d6e-9a44-0c0a7e51b0a7")


def bill_of_materials(report: EvalReport, licence: str) -> dict[str, Any]:
    """The document, as JSON types: the model as its subject, and everything that is installed here.

    `licence`: of the model. The commit of this code and the digest of the package list
    that scored the model are those of the report, so that a reader sees where this machine differs.
    """
    subject, profile = report.subject, report.exec_profile
    libraries = list(_libraries())
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": subject.name,
        "version": (subject.weights_tensors or "unknown").removeprefix("sha256:")[:16],
        "licenses": [{"license": {"name": licence}}],
        "properties": _properties(
            {
                "coterie:weights_tensors": subject.weights_tensors,
                "coterie:weights_files": subject.weights_files,
                "coterie:scored_with_libraries": profile.libraries or None,
            }
        ),
    }
    tool = {
        "type": "application",
        "name": "coterie",
        "version": importlib.metadata.version("coterie"),
        "properties": _properties(
            {
                "coterie:commit": profile.commit,
                "coterie:changed_since_commit": None if profile.dirty is None else str(profile.dirty).lower(),
            }
        ),
    }
    content = f"{subject.weights_tensors} {[(one['name'], one['version']) for one in libraries]}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, content)}",
        "version": 1,
        "metadata": {"timestamp": report.created, "tools": {"components": [tool]}, "component": model},
        "components": [_python(), *libraries],
        "dependencies": [
            {"ref": "model", "dependsOn": ["python", *(one["bom-ref"] for one in libraries)]},
        ],
    }


def _python() -> dict[str, Any]:
    return {
        "type": "platform",
        "bom-ref": "python",
        "name": platform.python_implementation(),
        "version": platform.python_version(),
        "properties": _properties({"coterie:system": platform.platform()}),
    }


def _libraries() -> Iterator[dict[str, Any]]:
    """Every installed package once, by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"]
        if name:  # what a broken installation leaves has none
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), package)
    for name, package in sorted(found.items()):
        purl = f"pkg:pypi/{name}@{package.version.replace('+', '%2B')}"
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": package.version,
            "purl": purl,
            **_stated_licence(package),
        }


def _stated_licence(package: importlib.metadata.Distribution) -> dict[str, Any]:
    """What a package says of its licence: an SPDX expression, or a name; nothing where it is a whole text."""
    about = package.metadata
    if about["License-Expression"]:
        return {"licenses": [{"expression": about["License-Expression"]}]}
    classifiers = [line for line in about.get_all("Classifier") or () if line.startswith("License :: ")]
    name = classifiers[0].rpartition(" :: ")[2] if classifiers else (about["License"] or "").strip()
    return {"licenses": [{"license": {"name": name}}]} if name and len(name) < 80 else {}


def _properties(facts: dict[str, str | None]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in facts.items() if value is not None]
