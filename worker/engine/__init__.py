"""The embedded inference engine: a process that speaks vLLM's protocol. Started, never imported."""
