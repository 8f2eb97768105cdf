"""Internal. The closed form on CUDA, in Triton; an extra."""
