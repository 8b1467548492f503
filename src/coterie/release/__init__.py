"""What other programs need to serve a checkpoint."""
