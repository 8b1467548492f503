"""Layer 2: sources, dedup, split, token shards, rows and their order. Imports neither torch nor
transformers.
"""
