"""The limits around a model's tools: a sandboxed interpreter, a folder, arithmetic, schemas."""
