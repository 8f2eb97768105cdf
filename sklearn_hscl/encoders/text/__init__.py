"""Encoders of texts: pretrained transformers, and the tokens that they take."""
