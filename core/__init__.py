"""What is true whoever asks: rules, rows, bytes and use cases."""
