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
    assert len(names.places) > 20 and not names.only_whole_names
    # Of parts of one tensor, which have no module, each has another name below that tensor's module.
    paths = {name: place.path for name, place in names.places.items()}
    assert len({place.parameter for place in names.places.values()}) == len(paths)
    whole = {path.rpartition(".")[0] if name in names.shared else path for name, path in paths.items()}
    assert whole <= modules
    keys = {key for name, key in names.parameters.items() if name.rpartition(".")[0] not in names.shared}
    assert len(set(names.parameters.values())) == len(names.parameters)
    assert keys <= held | {"lm_head.weight"}  # one tensor where it is tied
