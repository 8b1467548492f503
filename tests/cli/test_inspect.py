"""`inspect` has words for every family."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from coterie.cli.show import describe
from coterie.families import config_from_hf
from tests.families import hf


@pytest.mark.parametrize("name", sorted(hf.CONFIGS))
def test_every_family_is_described(name: str) -> None:
    config = config_from_hf(AutoConfig.for_model(**(hf._BASE | hf.CONFIGS[name])).to_dict())
    facts = describe(config)
    assert facts["layers"] and all("attention" in line for line in facts["layers"])
    assert facts["parameters"]["total"] >= facts["parameters"]["active_all"] > 0
