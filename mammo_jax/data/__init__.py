"""From DICOM on disk to batches: reading, packaging, augmenting."""
