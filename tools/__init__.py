"""Tools that rebuild committed assets."""
