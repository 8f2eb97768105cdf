"""Internal. Several models trained as one."""
