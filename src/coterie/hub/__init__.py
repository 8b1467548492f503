"""Models on the Hugging Face hub and in its local cache: names, files, downloads that resume, hashes."""
