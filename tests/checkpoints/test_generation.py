"""Settings of generation_config.json that are not applied are named."""

from __future__ import annotations

from transformers import GenerationConfig

from coterie.checkpoints.generation import unused_settings


def test_settings_that_are_not_applied_are_named_unless_they_change_nothing() -> None:
    neutral = GenerationConfig().to_dict() | {"num_beams": 1, "no_repeat_ngram_size": 0, "typical_p": 1.0}
    assert unused_settings(neutral) == [] == unused_settings({})
    assert "'max_length' is 512" in unused_settings({"max_length": 512})[0]
    assert unused_settings({"max_length": 512, "max_new_tokens": 64}) == []  # the newer setting decides
    found = unused_settings({"num_beams": 4, "no_repeat_ngram_size": 3, "bad_words_ids": [[5]]})
    assert [line.split("'")[1] for line in found] == ["num_beams", "no_repeat_ngram_size", "bad_words_ids"]
