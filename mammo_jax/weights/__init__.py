"""Models on disk: directories of runs, and weights from elsewhere."""
