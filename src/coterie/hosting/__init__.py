"""Models held ready for requests: the engine's thread, the service around it, grammars, settings, errors."""
