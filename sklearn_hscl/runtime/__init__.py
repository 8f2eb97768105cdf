"""Internal. Devices, threads, precision, random state, files: what the process gives."""
