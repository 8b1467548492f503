"""Products of matrices and of experts, and the one place that chooses among them.

`choose` answers every question about device, dtype and size; where the answer depends on the processor,
`measured` knows it from `probes`. `products` and `dense` hold products of two matrices, `cuda`
kernels that exist on CUDA only, `causal_blocks` attention on CPU; `grouped`, `swiglu` and `adapted` hold
products of experts. None is an `nn.Module`.
"""
