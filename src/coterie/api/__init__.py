"""What requests mean: the protocols that clients speak, over one conversation and one engine."""
