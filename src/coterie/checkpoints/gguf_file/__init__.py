"""GGUF files read: header, split files, block types, tensors. `coterie.gguf` writes them."""
