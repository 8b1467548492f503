"""Anthropic's Messages API: requests as chat requests, replies as content blocks and their events."""
