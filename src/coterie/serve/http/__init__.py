"""HTTP mechanics: bodies and answers, strict JSON, and the middleware."""
