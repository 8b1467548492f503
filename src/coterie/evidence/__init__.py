"""What a claim is proven with: canonical JSON, Merkle trees, keys, signed statements, the ledger of looks."""
