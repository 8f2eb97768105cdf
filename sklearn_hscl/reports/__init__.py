"""Internal. Findings about a fitted embedder, as text, dictionary and HTML."""
