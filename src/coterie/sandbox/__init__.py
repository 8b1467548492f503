"""Tools that a model may call, and their limits: sandboxed Python, a folder, arithmetic, schemas."""
