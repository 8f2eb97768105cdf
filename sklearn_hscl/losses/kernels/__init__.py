"""Ways to compute the one equation: all rows at once, in blocks, in closed form."""
