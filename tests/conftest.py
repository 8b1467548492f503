"""What every test shares: Hugging Face libraries offline, and one hypothesis profile."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Set before any Hugging Face library is imported: a test that needs the network is marked `net` and clears it
# itself.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# No deadline: the machine may be shared, and a slow first example (an import, a compile) is no failure.
settings.register_profile(
    "coterie", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("coterie")
