"""Internal. Exact nearest neighbours of many rows."""
