"""What other tools call the layers to train (`target_modules`, `modules_to_save` of PEFT), as our groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_ATTENTION = (
    frozenset(("q_proj", "k_proj", "v_proj", "o_proj")),
    frozenset(("q_proj", "k_proj", "v_proj", "out_proj")),
    frozenset(("qkv_proj", "o_proj")),
    frozenset(("q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")),
    frozenset(("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")),
)
_FEED_FORWARD = (
    frozenset(("gate_proj", "up_proj", "down_proj")),
    frozenset(("gate_up_proj", "down_proj")),
    frozenset(("w1", "w2", "w3")),
)
_FEED_FORWARD_GROUPS = ("experts", "shared", "dense")
_ALL = ("all-linear", "all_linear", "all")
_SINGLE = {"lm_head": "head", "gate": "router", "router": "router"}
_FULL = {"lm_head": "head", "embed_tokens": "embedding", "norm": "norm"}


def train_of_modules(targets: Any, saved: Any = None) -> dict[str, str]:
    """`train` of `TuneConfig` for lists of names of layers: `targets` get factors, `saved` are trained whole.

    The names of a feed-forward reach its routed experts too.
    Errors: `ValueError`, one line, for a name that is not known, and for a part of the projections of
    attention or of a feed-forward: factors go on all of them here.
    """
    train: dict[str, str] = {}
    names = _listed("target_modules", targets)
    if any(name in _ALL for name in names):
        train |= dict.fromkeys(("attention", *_FEED_FORWARD_GROUPS), "lora")
        names = [name for name in names if name not in _ALL]
    rest = {name.rpartition(".")[2] for name in names}
    for forms, groups in ((_ATTENTION, ("attention",)), (_FEED_FORWARD, _FEED_FORWARD_GROUPS)):
        found = rest & frozenset().union(*forms)
        if not found:
            continue
        if not any(found >= form for form in forms):
            nearest = min(forms, key=lambda form: len(form - found) + 9 * len(found - form))
            missing = ", ".join(sorted(nearest - found))
            raise ValueError(
                f"target_modules: {', '.join(sorted(found))} are a part of {groups[0]}, and factors go on "
                f"all of its layers here; add {missing}, or leave them out"
            )
        train |= dict.fromkeys(groups, "lora")
        rest -= found
    train |= {_SINGLE[name]: "lora" for name in rest & _SINGLE.keys()}
    _known("target_modules", rest - _SINGLE.keys())
    whole = {name.rpartition(".")[2] for name in _listed("modules_to_save", saved)}
    _known("modules_to_save", whole - _FULL.keys())
    return train | {_FULL[name]: "full" for name in whole}


def with_own_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with `train` in place of `target_modules` and `modules_to_save`.

    Errors: as `train_of_modules`; `ValueError` where `train` says the same thing too.
    """
    given = [name for name in ("target_modules", "modules_to_save") if settings.get(name) is not None]
    if not given:
        return dict(settings)
    if settings.get("train"):
        raise ValueError(f"'{given[0]}' and 'train' both say what is trained; keep one")
    train = train_of_modules(settings.get("target_modules"), settings.get("modules_to_save"))
    if "target_modules" not in given:  # the method's usual layers, and these
        train = dict.fromkeys(("attention", *_FEED_FORWARD_GROUPS), "lora") | train
    kept = {name: value for name, value in settings.items() if name not in given}
    return kept | {"train": train}


def _listed(what: str, names: Any) -> Sequence[str]:
    names = [] if names is None else [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what}: give a list of names of layers, such as [q_proj, k_proj, v_proj, o_proj]")
    return list(names)


def _known(what: str, unknown: set[str]) -> None:
    if unknown:
        raise ValueError(
            f"{what}: '{min(unknown)}' is not the name of a layer that is known here; say what to train with "
            "train (attention=lora, experts=lora...)"
        )
