"""The OpenAI API: chat, completions, responses, embeddings, and tokens."""
