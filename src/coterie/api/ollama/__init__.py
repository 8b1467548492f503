"""The API of Ollama: chat, generate, embed, and what is said of models; answers in lines of JSON."""
