"""Write docs/families.md from the registry of families; with --check, fail when it is not up to date."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from made_page import write_or_check

from coterie.checkpoints.gguf_model.configs import ARCHITECTURES
from coterie.llamacpp.targets import TARGETS
from coterie.families import FAMILIES, dense_forms, routed_form
from coterie.families.base import Family
from coterie.families.unsupported import UNSUPPORTED

PAGE = Path(__file__).parent / "families.md"
INTRODUCTION = """# Families

`python docs/make_families.py` writes this page from the registry (`src/coterie/families/registry.py`).

The `model_type` in `config.json` names the family. A model of any family below can be loaded, inspected,
tuned, merged, verified, served, converted to other types and shard sizes, and saved as it was. What differs
is in the columns:

* **layers**: dense, or with routed experts in some layers or all.
* **upcycle**, **densify**: what [surgery](surgery.md) makes of it.
* **GGUF**: the architecture of llama.cpp that `coterie convert --to gguf` writes. Files of the architectures
  below the table are read.

The mathematics is in [design/families.md](design/families.md), file formats are in
[checkpoints.md](checkpoints.md).
"""
UNROUTED = """## Dense families that are not upcycled
"""
AROUND = """## Models around a text model

Their text model is used, and the tensors of what is around it (encoders of images and sound) are carried
unchanged: into a merged, converted or tuned copy too. `coterie convert --to TYPE --drop vision` takes the
text model out. A directory that holds the text model alone has the text model's own `model_type`.
"""
UNKNOWN = """## Known and not supported

The error for these types says the same. Other types are refused with the list of the supported ones.
"""


def render() -> str:
    """The whole page."""
    texts = [chosen for chosen in FAMILIES.values() if not chosen.texts]
    around = [chosen for chosen in FAMILIES.values() if chosen.texts]
    return "\n".join(
        [
            INTRODUCTION,
            *_table(
                ("`model_type`", "models", "layers", "upcycle", "densify", "GGUF"),
                (_row(chosen) for chosen in texts),
            ),
            UNROUTED,
            *_table(
                ("`model_type`", "why"),
                ((_code(one.model_type), one.unrouted) for one in texts if one.unrouted),
            ),
            f"Architectures of GGUF files that are read: {_codes(ARCHITECTURES)}.\n",
            AROUND,
            *_table(
                ("`model_type`", "models", "text model"),
                ((_code(one.model_type), one.examples, _codes(one.texts)) for one in around),
            ),
            UNKNOWN,
            *_table(
                ("`model_type`", "what it would need"),
                ((_code(name), needs) for name, needs in sorted(UNSUPPORTED.items())),
            ),
        ]
    )


def _row(chosen: Family) -> tuple[str, ...]:
    routed = any("expert" in key for key in chosen.keys)
    target = TARGETS.get(chosen.model_type)
    return (
        _code(chosen.model_type),
        chosen.examples,
        "routed" if routed else "dense",
        _codes(filter(None, [routed_form(chosen.model_type)])),
        _codes(dense_forms(chosen.model_type)),
        _codes(one.name for one in (target, target and target.routed) if one is not None),
    )


def _table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in (titles, ("---",) * len(titles), *rows)]
    return [*lines, ""]


def _code(name: str) -> str:
    return f"`{name}`"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(_code(name) for name in names)


if __name__ == "__main__":
    write_or_check(PAGE, render())
