"""Internal. Encoders of images."""
