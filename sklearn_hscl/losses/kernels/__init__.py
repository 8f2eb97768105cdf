"""Internal. Ways to compute the equation: with autograd, or in closed form."""
