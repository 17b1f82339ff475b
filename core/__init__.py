"""What is true whoever asks: rules, rows, bytes and use cases."""

__version__ = "0.1.0"
"""The release, which pyproject.toml reads too: a service started from a checkout knows it as well."""
