"""LoRA adapters and expert patches: attach, read, write, merge, compare."""
