"""Whether two models are the same: directories, adapters, GGUF files, servers."""
