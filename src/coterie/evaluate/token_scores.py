"""Log-probabilities of a text's tokens, in units of what the model expects at each place.

T tokens of a pass, D width, V vocabulary, C tokens of one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from coterie.evaluate.local_subject import LocalSubject
from coterie.nn.packed import PASS_TOKENS, forward_packed, groups_of
from coterie.nn.transformer import Transformer

_CHUNK_NUMBERS = 1 << 24  # scores of tokens that are worked out at once: 64 MiB
_LEAST = 1e-6  # standard deviation, where a model is certain


@torch.inference_mode()
def standardised(subject: LocalSubject, texts: Sequence[str]) -> list[list[float]]:
    """(log p - mean) / deviation for each token of each text, as in Min-K%++ (arXiv 2404.02936).

    Mean and standard deviation are those of log p over the model's own prediction there. A text that is
    longer than the model's positions is cut at its end; a text without a token gives a single 0.
    """
    model, start = subject.model.model, subject.start_ids()[-1:]
    most = model.config.max_positions + 1
    sequences = [[*start, *subject.tokenizer.encode(text)][:most] for text in texts]
    asked = [ids for ids in sequences if len(ids) > 1]
    training, values = model.training, list[float]()
    model.eval()
    try:
        for group in groups_of(asked, PASS_TOKENS):
            h_TD = forward_packed(model, [ids[:-1] for ids in group])
            targets_T = torch.tensor([token for ids in group for token in ids[1:]], device=h_TD.device)
            values += _in_deviations(model, h_TD, targets_T)
    finally:
        model.train(training)
    left = iter(values)
    return [[next(left) for _ in ids[1:]] or [0.0] for ids in sequences]


def _in_deviations(model: Transformer, h_TD: Tensor, targets_T: Tensor) -> list[float]:
    found = []
    for start in range(0, len(h_TD), chunk := max(1, _CHUNK_NUMBERS // model.config.vocab_size)):
        logp_CV = model.logits(h_TD[start : start + chunk]).log_softmax(-1)
        mean_C = (logp_CV.exp() * logp_CV).sum(-1, keepdim=True)
        deviation_C = (logp_CV.exp() * (logp_CV - mean_C).square()).sum(-1, keepdim=True).sqrt()
        logp_C = logp_CV.gather(1, targets_T[start : start + chunk, None])
        found.append((logp_C - mean_C) / deviation_C.clamp(min=_LEAST))
    return torch.cat(found)[:, 0].tolist()
