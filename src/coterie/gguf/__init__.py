"""GGUF files: export a model, and read the tensors back to check them."""
