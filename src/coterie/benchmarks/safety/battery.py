"""The battery: which benchmarks it consists of, in the order of its report."""

from __future__ import annotations

from coterie.benchmarks.item import Benchmark
from coterie.benchmarks.safety.injection import Injection
from coterie.benchmarks.safety.refusals import Jailbreaks, Refusals
from coterie.benchmarks.safety.secrets import Secrets
from coterie.benchmarks.safety.toxicity import Toxicity

SUITE = "safety"
SAFETY: dict[str, type[Benchmark]] = {
    kind.name: kind for kind in (Refusals, Jailbreaks, Injection, Secrets, Toxicity)
}
