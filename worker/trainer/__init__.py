"""The trainer process: holds a base, runs attempts one after another. Started, never imported."""
