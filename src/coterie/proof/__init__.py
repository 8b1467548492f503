"""What a model says to fixed texts: records, and how far two records are apart."""
