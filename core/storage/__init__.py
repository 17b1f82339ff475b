"""Bytes: streamed into object stores, published atomically."""
