"""Raw sets of mammograms to records, and records to batches."""
