"""The checkpoint directory: open, read, write, convert and commit it."""
