"""CBIS-DDSM as a TFDS data set."""
