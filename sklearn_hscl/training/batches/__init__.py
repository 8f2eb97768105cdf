"""Internal. Batches: rows as tensors, how they are sampled, their views."""
