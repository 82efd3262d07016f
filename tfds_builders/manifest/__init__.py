"""Anyone's own mammograms as a TFDS data set."""
