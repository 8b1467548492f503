"""llama.cpp's architectures, keys, tensors and splits as data, for both ways."""
