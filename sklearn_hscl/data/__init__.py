"""Internal. Converts X, y and groups, as users pass them, to arrays for an encoder."""
