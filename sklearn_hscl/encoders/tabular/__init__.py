"""Internal. The encoder of dense tables."""
