"""The one client of the OpenAI HTTP API."""
