"""Internal. How an embedder is trained: one step, driven by skorch."""
