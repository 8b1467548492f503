"""Layer 1: the one client of the OpenAI HTTP API."""
