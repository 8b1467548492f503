"""Published quantised forms of weights, one module per method: which tensors encode one, and how."""
