"""Passes over rows that numba compiles, in place of several operations of PyTorch: training on a CPU.

A pass is a plain function of the address of int64 fields: threads, the address of `omp_get_thread_num`, rows,
kind (0: float32, 1: bfloat16), then its own. `kernels.one_pass` alone calls them; this package is imported
when the first pass is needed. Sums and functions are computed in float32 and rounded once.
"""
