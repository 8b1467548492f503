"""`coterie schema`: the JSON schema of a YAML file, for editors."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer


class SettingsFile(StrEnum):
    """The kinds of YAML files that verbs read."""

    train = "train"
    tune = "tune"
    distill = "distill"
    on_policy = "on-policy"
    pipeline = "pipeline"


def schema(
    kind: Annotated[
        SettingsFile,
        typer.Argument(
            help="train (`coterie train`), tune, distill or on-policy (their `--config`), or pipeline."
        ),
    ],
) -> None:
    """Print the JSON schema of a YAML file of settings, so that an editor can complete and check it.

    Name the schema in the first line of the YAML file: # yaml-language-server: $schema=train.schema.json
    """
    from coterie.config import Settings
    from coterie.config.distill import DistillConfig
    from coterie.config.method_run import SHORT
    from coterie.config.on_policy import OnPolicyConfig
    from coterie.config.pipeline import PipelineConfig
    from coterie.config.run import TrainConfig
    from coterie.config.tune import TuneConfig

    kinds: dict[SettingsFile, type[Settings]] = {
        SettingsFile.train: TrainConfig,
        SettingsFile.tune: TuneConfig,
        SettingsFile.distill: DistillConfig,
        SettingsFile.on_policy: OnPolicyConfig,
        SettingsFile.pipeline: PipelineConfig,
    }
    settings = kinds[kind]
    found = settings.model_json_schema()
    found["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    found.pop("required", None)  # what the file leaves out may come from the command line
    properties = found["properties"]
    if kind is SettingsFile.tune:
        properties["data"] = {"anyOf": [{"type": "string"}, properties["data"]]}
        properties["load_in_4bit"] = {"type": "boolean", "description": "true: method 'qlora'."}
        names = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
        for key, what in (("target_modules", "get factors"), ("modules_to_save", "are trained whole")):
            properties[key] = names | {"description": f"Layers that {what}, by PEFT's names of them."}
        for short, (holder, key) in SHORT.items():
            held = found["$defs"][properties[holder]["$ref"].removeprefix("#/$defs/")]
            properties[short] = held["properties"][key] | {"description": f"Short for '{holder}.{key}'."}
    elif kind is SettingsFile.distill:
        for name in ("data", "examples"):
            properties[name]["anyOf"] += [{"type": "string"}]
        properties["student"] = {"anyOf": [{"type": "string"}, properties["student"]]}
    elif kind is SettingsFile.on_policy:
        properties["student"] = properties["model"] | {"description": "Another name for 'model'."}
    elif kind is SettingsFile.pipeline:
        found["$defs"]["StageSettings"]["additionalProperties"] = True  # the settings of its recipe
    for other, ours in settings.other_names.items():
        # Names of other tools are valid settings: without these the editor would mark them as unknown.
        properties[other] = properties[ours] | {"description": f"Another name for '{ours}'."}
    print(json.dumps(found, indent=2))
