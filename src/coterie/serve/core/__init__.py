"""The engine's thread and the service around it; knows nothing of HTTP."""
