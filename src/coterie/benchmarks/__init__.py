"""Test items whose answers a program can check, and how a reply to one is judged."""
