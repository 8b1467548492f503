"""A decoding step as one native call: kernels compiled by numba, run over a table of operations."""
