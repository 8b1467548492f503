"""Kimi K2 (`kimi_k2`), which is DeepSeek-V3's decoder, and the models around it (`kimi_k25`).

`kimi_k2`: K2, K2 Thinking (arXiv 2507.20534). `kimi_k25`: K2.5 and later, which read images.
"""

from __future__ import annotations

from dataclasses import replace

from coterie.families.deepseek import DEEPSEEK_V3
from coterie.families.wrapper import wrapper

KIMI_K2 = replace(DEEPSEEK_V3, model_type="kimi_k2", examples="Kimi K2, K2 Thinking")
KIMI_K25 = wrapper(
    "kimi_k25",
    "KimiK25ForConditionalGeneration",
    (DEEPSEEK_V3, KIMI_K2),
    ("vision_tower.", "mm_projector.", "model.vision_tower.", "model.mm_projector."),
    examples="Kimi K2.5, K2.6, K2.7",
)
