"""One function a row."""
