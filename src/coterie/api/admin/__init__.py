"""The server itself: models, health, adapters, feedback."""
