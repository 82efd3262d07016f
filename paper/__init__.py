"""The paper's experiments as rows of tables: planned, run, and set beside the paper."""
