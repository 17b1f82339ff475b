"""Text to token ids, without torch: plans, API, trainer and engine share one renderer."""
