"""How much a model reasons before it answers, what its reply consists of, and majorities of several."""
