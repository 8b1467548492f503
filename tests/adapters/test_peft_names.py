"""The names that adapters give to layers are those of transformers, for every family."""

from __future__ import annotations

import pytest

from coterie.adapters.peft_names import Names
from coterie.families import config_from_hf
from tests.families.hf import CONFIGS, tiny


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_places_are_modules_and_parameters_are_parameters(name: str) -> None:
    reference = tiny(name)
    modules = {path for path, _ in reference.named_modules()}
    held = {path for path, _ in [*reference.named_parameters(), *reference.named_buffers()]}
    names = Names(config_from_hf(reference.config.to_dict()))
    assert len(names.places) > 12 and not names.only_whole_names
    assert {place.path for place in names.places.values()} <= modules
    assert set(names.parameters.values()) <= held | {"lm_head.weight"}  # one tensor where it is tied
