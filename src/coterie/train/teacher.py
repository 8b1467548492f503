"""A teacher's answers to rows, in the form that a cache keeps.

T tokens, S tokens of a row, V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from coterie.data.rows import Row
from coterie.data.teacher_targets import LEAST_LOG, OWN, Answers, TargetHeader
from coterie.nn.packed import PASS_TOKENS
from coterie.nn.transformer import Transformer
from coterie.train.batch import collate
from coterie.train.distil import CHUNK, teacher_scores


def answers(teacher: Transformer, header: TargetHeader, rows: Sequence[tuple[int, Row]]) -> Iterator[Answers]:
    """The answers to each of the numbered rows.

    A row's draws depend on its number and the header's seed alone. Logits exist for a chunk of tokens at a
    time.
    """
    device = teacher.embed.weight.device
    size = max(1, PASS_TOKENS // header.row_length)
    for group in (rows[at : at + size] for at in range(0, len(rows), size)):
        batch = collate([row for _, row in group], device)
        with torch.no_grad():
            h_TD = teacher(batch.ids_T, batch.context)
            for (number, row), h_SD in zip(group, h_TD.split(header.row_length), strict=True):
                # A generator of the CPU takes 32 bits of its seed.
                mixed = np.random.SeedSequence([header.seed, number]).generate_state(1)
                generator = torch.Generator(device).manual_seed(int(mixed[0]))
                targets_S = torch.from_numpy(row.targets.astype(np.int64)).to(device)
                parts = [
                    _kept(teacher_scores(teacher, h_CD, header.vocab_size), targets_C, header, generator)
                    for h_CD, targets_C in zip(h_SD.split(CHUNK), targets_S.split(CHUNK), strict=True)
                ]
                yield {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}


def _kept(
    scores_CV: Tensor, targets_C: Tensor, header: TargetHeader, generator: torch.Generator
) -> dict[str, Tensor]:
    """What is kept of a chunk."""
    own_C = scores_CV.log_softmax(-1).gather(1, targets_C[:, None])[:, 0]
    logp_CV = (scores_CV / header.temperature).log_softmax(-1)
    found = {OWN: own_C}
    if header.kind == "full":
        found["teacher_logps"] = logp_CV
    elif header.kind == "topk":
        top = logp_CV.topk(header.width)
        tail_C = logp_CV.scatter(1, top.indices, -torch.inf).logsumexp(-1)
        found |= {"teacher_ids": top.indices, "teacher_logps": top.values, "teacher_tail": tail_C}
    else:
        p_CV = logp_CV.exp()
        found["teacher_ids"] = torch.multinomial(p_CV, header.width, replacement=True, generator=generator)
        found["teacher_entropy"] = -(p_CV * logp_CV.clamp_min(LEAST_LOG)).sum(-1)
    return {
        name: value.clamp_min(LEAST_LOG) if value.is_floating_point() else value
        for name, value in found.items()
    }
