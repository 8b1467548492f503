"""Change the structure of a model in memory: upcycle, densify, grow, shrink."""
