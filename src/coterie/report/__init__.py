"""Records drawn as self-contained HTML pages and as text. Nothing here knows of models."""
