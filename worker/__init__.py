"""GPU hosts: where and when attempts run."""
