"""What may be wrong with a score: each detector gives one finding."""
