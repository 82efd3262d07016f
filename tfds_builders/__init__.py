"""TFDS data sets, each a folder as TFDS users expect it."""
