"""Mistral, dense (`mistral`), and the models around it (`mistral3`).

Mistral: arXiv 2310.06825. `mistral`: 7B, Nemo, Small 3. `mistral3`: Small 3.1 and 3.2, Magistral, Devstral,
which read images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.config import ModelConfig
from coterie.families.base import COMMON_KEYS, Family, read_dense, read_window, write_dense
from coterie.families.ministral3 import MINISTRAL3
from coterie.families.mistral4 import MISTRAL4
from coterie.families.reader import Reader
from coterie.families.slots import dense_model_slots
from coterie.families.wrapper import wrapper


def _read(data: Mapping[str, Any], where: str) -> ModelConfig:
    reader = Reader(data, where)
    for name in ("attention_bias", "mlp_bias"):
        reader.expect(name, False, None)
    mask = read_window(reader, 4096)
    if mask:  # transformers takes both at once, for something that no release means
        reader.expect("layer_types", None)
    return read_dense(reader, 10000.0, 1e-6, False, **mask)


def _write(config: ModelConfig) -> dict[str, Any]:
    data, attention, _ = write_dense(config)
    return data | {"sliding_window": attention.window}


MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    _read,
    _write,
    dense_model_slots,
    COMMON_KEYS | {"sliding_window"},
    examples="Mistral 7B, Nemo, Small 3, Large 2",
)
MISTRAL3 = wrapper(
    "mistral3",
    "Mistral3ForConditionalGeneration",
    (MISTRAL, MINISTRAL3, MISTRAL4),
    ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."),
    examples="Mistral Small 3.1 and 3.2, Magistral, Devstral Small",
)
