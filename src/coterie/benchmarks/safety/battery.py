"""The battery: which benchmarks it consists of, in the order of its report."""

from __future__ import annotations

from coterie.benchmarks.safety.base import SafetyBenchmark
from coterie.benchmarks.safety.injection import Injection
from coterie.benchmarks.safety.refusals import Jailbreaks, Refusals
from coterie.benchmarks.safety.secrets import Secrets
from coterie.benchmarks.safety.toxicity import Toxicity

_KINDS: tuple[type[SafetyBenchmark], ...] = (Refusals, Jailbreaks, Injection, Secrets, Toxicity)
SAFETY = {kind.name: kind for kind in _KINDS}
