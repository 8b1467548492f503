"""D5: items that were read are more familiar than their twins; the statistic is the published one."""

from __future__ import annotations

import pytest
import torch

from coterie.evaluate.detectors.familiarity import familiarity_finding, min_k
from coterie.evaluate.detectors.variants import text_of
from coterie.evaluate.remote_subject import RemoteSubject
from coterie.evaluate.scoring import score_benchmark
from coterie.evaluate.token_scores import standardised
from tests.evaluate.detectors.learnt import OPTIONS, Quiz, subject_of
from tests.infer.models import training_logprobs


@pytest.mark.parametrize(("times", "learnt"), [(60, True), (0, False)])
def test_what_was_read_is_familiar(times: int, learnt: bool) -> None:
    subject, quiz = subject_of(times), Quiz()
    records = score_benchmark(subject, quiz, OPTIONS).records
    found = familiarity_finding(subject, quiz, records, items=15)
    assert found is not None and found.statistic is not None and found.p is None and not found.flag
    assert found.statistic > 0.8 if learnt else 0.2 < found.statistic < 0.8
    assert "Min-K%++" in found.says


def test_the_scores_are_standardised_by_the_models_own_prediction() -> None:
    subject = subject_of(0)
    texts = [text_of(item) for item in Quiz().items()[:3]] + [""]
    *found, empty = standardised(subject, texts)
    assert empty == [0.0]
    for text, values in zip(texts, found, strict=False):
        ids = [*subject.start_ids(), *subject.tokenizer.encode(text)]
        logp_TV = training_logprobs(subject.model.model, ids)[:-1].double()
        mean = (logp_TV.exp() * logp_TV).sum(-1)
        deviation = ((logp_TV.exp() * logp_TV.square()).sum(-1) - mean.square()).sqrt()
        wanted = (logp_TV[range(len(ids) - 1), ids[1:]] - mean) / deviation
        assert torch.allclose(torch.tensor(values).double(), wanted, atol=1e-3)
    assert min_k([5.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0]) == 1.5 and min_k([3.0]) == 3.0


def test_a_server_tells_plain_log_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    quiz, subject = Quiz(), subject_of(0)
    records = score_benchmark(subject, quiz, OPTIONS).records
    remote = RemoteSubject.__new__(RemoteSubject)
    known = {text_of(item) for item in quiz.items()}
    monkeypatch.setattr(
        remote, "token_logprobs", lambda texts: [[-1.0 if one in known else -2.0] * 3 for one in texts]
    )
    found = familiarity_finding(remote, quiz, records, items=4)
    assert found is not None and found.statistic == 1.0 and "Min-K%;" in found.says
    assert familiarity_finding(object(), quiz, records, items=4) is None  # type: ignore[arg-type]
