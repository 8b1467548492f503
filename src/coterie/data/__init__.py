"""Sources, deduplication, held-out split, token shards, rows, their order, and tuning examples.

No module here imports torch or transformers.
"""
