"""What stays in a dataset, and why the rest does not."""
