"""Published model families, one file each, and their registry."""

from coterie.families.mapping import Slot
from coterie.families.registry import (
    FAMILIES,
    config_from_hf,
    config_to_hf,
    dense_forms,
    family,
    float32_parameters,
    quantisation_of,
    retyped,
    routed_form,
    unwrapped,
)

__all__ = [
    "FAMILIES",
    "Slot",
    "config_from_hf",
    "config_to_hf",
    "dense_forms",
    "family",
    "float32_parameters",
    "quantisation_of",
    "retyped",
    "routed_form",
    "unwrapped",
]
