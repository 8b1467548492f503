"""Which evaluation items the training data holds: fingerprints of text, indexes of stages, queries."""
