"""INbreast as a TFDS data set."""
