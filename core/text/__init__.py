"""Text to token ids, with `tokenizers` alone: plans, API, trainer and engine share one renderer."""
