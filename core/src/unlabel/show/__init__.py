"""What a task or a dataset can show of itself, for the report."""
