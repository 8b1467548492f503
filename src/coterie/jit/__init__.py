"""How functions become machine code with numba, and what such functions are written with."""
