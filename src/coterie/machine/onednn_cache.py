"""How many compiled matrix products the process keeps."""

from __future__ import annotations

import os

# PyTorch's own cache of oneDNN primitives, one per thread, and the one inside oneDNN.
VARIABLES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
KEPT = 64


def keep_few_kernels() -> None:
    """Limit each of the two caches of compiled products to 64. Call before the first product.

    Prompts have every length, and each number of rows is compiled anew: about 280 KB in either cache, which
    by default holds a thousand. Both must be small, because either keeps a product alive. A variable that is
    already set stays.
    """
    for name in VARIABLES:
        os.environ.setdefault(name, str(KEPT))
