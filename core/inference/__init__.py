"""HTTP to inference engines, embedded or vLLM alike."""
