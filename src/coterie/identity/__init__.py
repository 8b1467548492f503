"""Which weights these are: digests of tensors, files, tokenizer and settings, and what ran them."""
