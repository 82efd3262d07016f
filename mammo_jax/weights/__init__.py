"""A model on disk: its directory, and weights from elsewhere."""
