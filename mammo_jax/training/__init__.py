"""The training engine: stages, steps, checkpoints, the run itself."""
