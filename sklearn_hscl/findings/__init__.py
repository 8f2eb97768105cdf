"""What is found about a fitted embedder, as text, dictionary and page."""
