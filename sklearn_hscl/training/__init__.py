"""Training: one step, driven by skorch."""
