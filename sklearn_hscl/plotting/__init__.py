"""Internal. Axes and colours that all displays share."""
