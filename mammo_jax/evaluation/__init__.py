"""Reading the result: predictions, figures of merit."""
