"""Internal. From what users pass as X, y and groups to arrays that an encoder takes."""
