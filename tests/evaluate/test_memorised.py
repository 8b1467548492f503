"""Text known by heart: found in a model that was trained on it, not in one that was not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from coterie.config import DataError
from coterie.data.heldout import HeldoutDocument
from coterie.evaluate.memorised import fisher_excess, memorised
from coterie.infer.model import LanguageModel
from coterie.infer.request import Reply
from coterie.nn.forward_context import ForwardContext
from coterie.nn.logprobs import token_logprobs
from tests.evaluate.support import make


def texts(num: int, seed: int, length: int = 24) -> list[HeldoutDocument]:
    random = np.random.default_rng(seed)
    return [
        HeldoutDocument("a", np.append(0, random.integers(1, 60, length - 1)), length) for _ in range(num)
    ]


def learnt(documents: list[HeldoutDocument], steps: int) -> LanguageModel:
    """A small mixture that has seen nothing but the documents."""
    torch.manual_seed(0)
    model = make().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.from_numpy(np.concatenate([document.ids[:-1] for document in documents]))
    targets = torch.from_numpy(np.concatenate([document.ids[1:] for document in documents]))
    context = ForwardContext.packed([len(document.ids) - 1 for document in documents])
    for _ in range(steps):
        optimiser.zero_grad()
        loss = -token_logprobs(model(ids, context), model.head_weight, targets, cap=model.logit_cap).mean()
        loss.backward()
        optimiser.step()
    return LanguageModel(model.eval())


class Parrot:
    """Continues the texts that it knows, the last of them with a mistake, and others with zeros."""

    config = SimpleNamespace(max_positions=100)

    def __init__(self, known: list[HeldoutDocument]) -> None:
        self.known = [document.ids.tolist() for document in known]

    def generate_many(self, prompts: list[list[int]], **settings: object) -> list[Reply]:
        assert settings["temperature"] == 0 and settings["stop_ids"] == ()
        replies = []
        for ids in prompts:
            found = [text[len(ids) :] for text in self.known if text[: len(ids)] == ids]
            reply = found[0] if found else [0] * 20
            if ids == self.known[-1][: len(ids)]:
                reply = [*reply[:5], 0, *reply[6:]]
            replies.append(Reply(ids=reply))
        return replies


def test_what_counts_as_reproduced() -> None:
    seen, unseen = texts(4, 1), texts(4, 2)
    parrot = cast(LanguageModel, Parrot(seen))
    facts = memorised(parrot, seen, unseen, prefix=6, run=6)
    assert facts.trained.value == 0.75 and facts.longest == 18  # of one text only five tokens are right
    assert facts.control is not None and facts.control.value == 0.0 and facts.longest_control == 0
    assert facts.excess == pytest.approx(4 / 56)  # 3 of 8 dealt all to one side
    assert memorised(parrot, seen, prefix=6, run=5).trained.value == 1.0


@pytest.mark.slow
def test_learnt_text_is_found_and_other_text_is_not() -> None:
    seen, unseen = texts(3, 1), texts(3, 2)
    facts = memorised(learnt(seen, 60), seen, unseen, prefix=6, run=12)
    assert facts.trained.value == 1.0 and facts.trained.problems == 3
    assert facts.control is not None and facts.control.value == 0.0
    assert facts.longest == 18 and facts.longest_control < 12
    assert facts.excess == pytest.approx(1 / 20)  # 3 of 6 dealt all to one side


def test_an_untrained_model_knows_nothing_and_short_texts_are_left_out() -> None:
    model = LanguageModel(make())
    facts = memorised(model, [*texts(3, 1), *texts(2, 3, length=12)], prefix=6, run=12)
    assert (facts.trained.value, facts.trained.problems) == (0.0, 3)
    assert facts.control is None and facts.excess is None
    with pytest.raises(DataError, match="none of the 2 texts has 18 tokens"):
        memorised(model, texts(2, 3, length=12), prefix=6, run=12)
    with pytest.raises(DataError, match="do not fit"):
        memorised(model, texts(2, 3), prefix=10, run=100_000)


def test_fisher_by_hand() -> None:
    assert fisher_excess(3, 4, 1, 4) == pytest.approx(17 / 70)  # the lady who tasted tea
    assert fisher_excess(4, 4, 0, 4) == pytest.approx(1 / 70)
    assert fisher_excess(0, 5, 2, 7) == 1.0
    assert fisher_excess(2, 2, 0, 1) == pytest.approx(1 / 3)
