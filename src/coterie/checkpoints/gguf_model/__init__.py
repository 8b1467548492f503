"""Models in GGUF files: architectures, keys, tensors and tokenizers, each declared once for both ways."""
