"""What the settings of runs need to have an effect (`effects.py`), and which contradict each other."""

from __future__ import annotations

from typing import Any

from coterie.config.effects import Effect, Effects, Facts
from coterie.config.methods import tuning_method

_MOE = Effect(lambda _, facts: facts.moe is not False, "a mixture of experts (this model is dense)")
_MUON = Effect(lambda settings, _: settings.optimiser.name == "muon", "optimiser.name=muon", True)
_PREFERENCES = ("dpo", "ipo", "dpo-norm", "kto")

# What the optimiser and the schedule of every run need.
SHARED_EFFECTS: Effects = {
    "optimiser.momentum": _MUON,
    "optimiser.newton_schulz_steps": _MUON,
    "optimiser.decay_embeddings": Effect(
        lambda settings, _: settings.optimiser.weight_decay > 0, "a weight_decay above 0", True
    ),
    "optimiser.expert_lr": Effect(_MOE.needs, _MOE.words, True),
    "optimiser.router_lr": Effect(_MOE.needs, _MOE.words, True),
    "schedule.warmup_fraction": Effect(
        lambda settings, _: settings.schedule.warmup_steps is None, "a schedule without 'warmup_steps'", True
    ),
    "schedule.decay_fraction": Effect(
        lambda settings, _: settings.schedule.kind == "wsd", "schedule.kind=wsd", True
    ),
    "schedule.final_ratio": Effect(
        lambda settings, _: settings.schedule.kind != "constant", "a schedule.kind that decays", True
    ),
}


def _factors(settings: Any, _: Facts) -> bool:
    return tuning_method(settings.method).wraps == "factors" and "lora" in settings.treatments().values()


def _expert_factors(settings: Any, facts: Facts) -> bool:
    return _factors(settings, facts) and settings.treatments()["experts"] == "lora" and facts.moe is not False


def _chosen_experts(settings: Any, facts: Facts) -> bool:
    chosen = tuning_method(settings.method).wraps == "chosen experts"
    return chosen or _expert_factors(settings, facts)


def _groups(settings: Any, _: Facts) -> bool:
    return tuning_method(settings.method).wraps != "chosen experts"


def _objective(*names: str) -> Effect:
    def needs(settings: Any, facts: Facts) -> bool:
        found = facts.objective or settings.objective
        return found == "auto" or found in names

    return Effect(needs, f"the objective {' or '.join(names)}")


_LOW_RANK = Effect(_factors, "low-rank factors (method lora, qlora or dora)")
METHOD_EFFECTS: Effects = {
    "rank": _LOW_RANK,
    "alpha": _LOW_RANK,
    "dropout": _LOW_RANK,
    "rank_rule": Effect(_expert_factors, "low-rank factors on experts"),
    "bits": Effect(lambda settings, _: tuning_method(settings.method).quantised, "method qlora"),
    "experts": Effect(_chosen_experts, "method esft or low-rank factors on experts"),
    "train": Effect(_groups, "a method that trains groups (esft trains the chosen experts alone)"),
    "router": Effect(_groups, "a method that trains groups (esft trains the chosen experts alone)"),
    "balance": _MOE,
    "balance_prompts": _MOE,
} | dict(SHARED_EFFECTS)

TUNE_EFFECTS: Effects = {
    "guard": Effect(
        lambda settings, facts: facts.moe is not False or settings.guard == "off",
        "a mixture of experts (this model is dense and routes nothing)",
    ),
    "beta": _objective(*_PREFERENCES),
    "orpo_weight": _objective("orpo"),
    "epochs": Effect(lambda settings, _: settings.steps is None, "a run without 'steps'"),
    "eval_every": Effect(lambda settings, _: settings.eval != 0, "an 'eval' other than 0"),
    "max_forgetting": Effect(
        lambda settings, _: settings.retention != "none", "a 'retention' text to measure it on"
    ),
} | dict(METHOD_EFFECTS)

TRAIN_EFFECTS: Effects = {
    "data.vocab_size": Effect(
        lambda settings, _: settings.data.tokenizer is None and "from" not in settings.model,
        "a tokenizer to train (data.tokenizer or the given model has one)",
    ),
    "data.near_threshold": Effect(lambda settings, _: settings.data.dedup_near, "data.dedup_near=true"),
    "balance": _MOE,
    "codistil.weighting.ramp": Effect(
        lambda settings, _: settings.codistil is None or settings.codistil.weighting.kind != "const",
        "a codistil.weighting.kind other than const",
        True,
    ),
    "codistil.weighting.kappa": Effect(
        lambda settings, _: settings.codistil is None or settings.codistil.weighting.kind == "gated",
        "codistil.weighting.kind=gated",
        True,
    ),
} | dict(SHARED_EFFECTS)


def rounding_contradiction(data: dict[str, Any]) -> str | None:
    """Take `load_in_4bit` and `load_in_8bit` out of `data` and set method and bits; a contradiction in words.

    Either is another tool's word for method qlora with those bits, so with another method or other bits it
    cannot be followed.
    """
    asked = {}
    for key, bits in (("load_in_4bit", 4), ("load_in_8bit", 8)):
        value = data.pop(key, None)
        if value is not None and not isinstance(value, bool):
            return f"'{key}' is true or false, got {value!r}"
        if value is not None:
            asked[key] = (value, bits)
    wanted = [(key, bits) for key, (value, bits) in asked.items() if value]
    if len(wanted) > 1:
        return "'load_in_4bit' and 'load_in_8bit' are both true; keep one"
    method = data.get("method")
    if not wanted:
        refused = [key for key, (_, bits) in asked.items() if bits == data.get("bits", 4)]
        if method == "qlora" and refused:
            return f"'{refused[0]}' is false, and method qlora rounds to these bits; keep one"
        return None
    key, bits = wanted[0]
    if method is not None and method != "qlora":
        return f"'{key}' is true, and method '{method}' rounds nothing; use method=qlora, or leave it out"
    if data.get("bits", bits) != bits:
        return f"'{key}' is true, and 'bits' is {data['bits']}; keep one"
    data |= {"method": "qlora", "bits": bits}
    return None
