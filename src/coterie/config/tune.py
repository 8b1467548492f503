"""What a tuning run is, as data: model, examples, method, objective, budget, checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from coterie.config.base import apply_overrides
from coterie.config.effects import Effects
from coterie.config.errors import ConfigError
from coterie.config.method_run import SHORT, MethodRun, hold_short_names
from coterie.config.run_effects import TUNE_EFFECTS, rounding_contradiction
from coterie.config.target_modules import with_own_names

# Names that other tools use for the same thing.
ALIASES = {
    "base_model": "model",
    "model_name_or_path": "model",
    "dataset": "data",
    "datasets": "data",
    "train_file": "data",
    "seq_len": "row_length",
    "sequence_len": "row_length",
    "max_length": "row_length",
    "cutoff_len": "row_length",
    "max_seq_length": "row_length",
    "lora_r": "rank",
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "learning_rate": "lr",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "gradient_accumulation_steps": "accumulate",
    "micro_batch_size": "batch_rows",
    "per_device_train_batch_size": "batch_rows",
    "output_dir": "out",
    "warmup_ratio": "warmup",
    "max_grad_norm": "clip_norm",
    "sample_packing": "packing",
    "save_steps": "save_every",
    "eval_steps": "eval_every",
    "adapter": "method",
    "val_set_size": "eval",
    "router_policy": "router",
    "gradient_checkpointing": "recompute",
    "use_gradient_checkpointing": "recompute",
    "report_to": "track",
    "lora_target_modules": "target_modules",
    "lora_target": "target_modules",
    "lora_modules_to_save": "modules_to_save",
    "additional_target": "modules_to_save",
}
_LAYERS = "say which layers with train (attention=lora, experts=lora...)"
_ROUNDED = "write method=qlora and bits=4 or bits=8"
_LEARNT = "what is learnt follows from the rows: give conversations, or prompt and completion"
_PRECISION = "write dtype=bfloat16 or dtype=float32"
# Names that other tools use for what is said in another way here.
REFUSED = {
    "lora_target_linear": _LAYERS,
    **dict.fromkeys(("quantization_config", "quantization_bit", "bnb_config", "quant_method"), _ROUNDED),
    **dict.fromkeys(("use_dora", "peft_use_dora", "dora"), "write method=dora"),
    **dict.fromkeys(("use_rslora", "peft_use_rslora", "rslora"), "write alpha as rank ** 0.5 times theirs"),
    **dict.fromkeys(("finetuning_type", "peft"), "write method=lora, qlora, dora, full, esft or router"),
    **dict.fromkeys(("stage", "loss_type"), "write objective=sft, dpo, orpo or kto"),
    **dict.fromkeys(
        ("train_on_inputs", "train_on_prompt", "completion_only_loss", "assistant_only_loss"), _LEARNT
    ),
    **dict.fromkeys(("bf16", "fp16", "torch_dtype"), _PRECISION),
    "chat_template": "write template",
    "lr_scheduler_type": "write schedule.kind",
    "lr_scheduler": "write schedule.kind",
    "warmup_steps": "write warmup, a fraction of the steps",
    "optim": "write optimiser.name",
    "resume_from_checkpoint": "the same command goes on with a stopped run in the same 'out'",
}
# What the name of a special token in a plain text or a completion is: a fault, letters, or the token.
ControlTokens = Literal["refuse", "text", "ids"]


class TuneConfig(MethodRun):
    """One tuning run. Names that other tools use (`ALIASES`) are understood.

    `data`: sources of examples; with `objective` "auto" their kind chooses the objective. `objective`: a name
    of `train.objectives.OBJECTIVES`, or `auto`.

    Budget: `steps`, else `epochs` over the data. `row_length` None: what the longest example needs, at most
    the model's positions. `batch_rows` None: about 4096 tokens a step, fewer for few examples. `lr`,
    `weight_decay` and `warmup` (a fraction of the steps) are short names of fields of `optimiser` and
    `schedule`.

    `eval`: share of the examples held out (by content), or a file. `guard`: the reaction to routing that goes
    astray. `on_bad`: whether unusable examples stop the run. `control_tokens`: what the name of a special
    token in a plain text or a completion is: the token itself, as the tokenizer reads it (ids; a template may
    have rendered the text), letters (text), or a fault of the example (refuse).
    """

    other_names: ClassVar[Mapping[str, str]] = ALIASES
    refused_names: ClassVar[Mapping[str, str]] = REFUSED
    effects: ClassVar[Effects] = TUNE_EFFECTS

    data: list[str] = Field(min_length=1)
    out: str = "runs/tune"
    objective: str = "auto"
    beta: float = Field(0.1, gt=0)
    orpo_weight: float = Field(0.1, gt=0)
    epochs: float = Field(3.0, gt=0)
    steps: int | None = Field(None, gt=0)
    row_length: int | None = Field(None, gt=1)
    batch_rows: int | None = Field(None, gt=0)
    packing: bool = True
    eval: float | str = 0.05
    guard: Literal["off", "warn", "stop", "rollback"] = "warn"
    on_bad: Literal["stop", "skip"] = "stop"
    control_tokens: ControlTokens = "ids"
    eval_every: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _other_names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        result = canonical(data)
        contradiction = rounding_contradiction(result)
        if contradiction is not None:
            raise ValueError(contradiction)
        if isinstance(result.get("data"), str):
            result["data"] = [result["data"]]
        if result.get("guard") is False:  # what YAML makes of `off`
            result["guard"] = "off"
        return result

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.eval, float) and not 0 <= self.eval < 1:
            raise ValueError(f"eval {self.eval} must be at least 0 and below 1, or a file")
        return self


def parse_train(text: str) -> dict[str, str]:
    """`attention=lora,experts=lora,router=freeze` as a mapping. Errors: `ConfigError` for another form."""
    result: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        group, equals, treatment = part.partition("=")
        if not equals or not group or not treatment:
            raise ConfigError(
                f"--train {part}: write group=lora, group=full or group=freeze, separated by commas"
            )
        result[group.strip()] = treatment.strip()
    return result


def canonical(data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one source under our names: names of other tools and short names replaced.

    Errors: `ValueError` for two keys that set the same thing.
    """
    result: dict[str, Any] = {}
    for key, value in data.items():
        name = str(ALIASES.get(key, key))
        if name in result:
            raise ValueError(f"'{key}' and another key both set '{name}'; keep one")
        result[name] = value
    hold_short_names(result)
    return with_own_names(result)


def merge_sources(
    file: Mapping[str, Any], options: Mapping[str, Any], overrides: Iterable[str]
) -> dict[str, Any]:
    """One mapping from three sources, each under any names; of the same setting the later source counts.

    Errors: `ConfigError` for an override without `=`; `ValueError` as `canonical`.
    """
    result, given = canonical(file), canonical(options)
    for holder in ("optimiser", "schedule"):
        if holder in result and holder in given:
            given[holder] = {**result[holder], **given[holder]}
    return apply_overrides(result | given, [_own_name(text) for text in overrides])


def _own_name(override: str) -> str:
    name, equals, value = override.partition("=")
    root, dot, rest = name.partition(".")
    name = ALIASES.get(root, root) + dot + rest
    return ".".join(SHORT.get(name, (name,))) + equals + value
