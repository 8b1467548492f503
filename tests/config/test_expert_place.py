"""Where experts are: words that are known, and bytes that belong to a disk."""

import pytest

from coterie.config import ConfigError
from coterie.config.expert_place import ExpertPlace


def test_words_and_what_goes_with_them() -> None:
    assert ExpertPlace.parse("disk", 10, 20, {0: [1]}) == ExpertPlace("disk", 10, 20, {0: [1]})
    with pytest.raises(ConfigError, match=r"unknown place 'dsk'.*disk"):
        ExpertPlace.parse("dsk")
    with pytest.raises(ConfigError, match="leave out their memory and profile"):
        ExpertPlace.parse("memory", room=1)
