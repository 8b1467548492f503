"""HTTP: the application, its middleware, and strict JSON."""
