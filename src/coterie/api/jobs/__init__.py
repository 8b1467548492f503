"""OpenAI's files, batches and fine-tuning jobs."""
