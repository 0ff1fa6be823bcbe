"""What is installed: plugins found by name, confined, described; nothing of them is imported for a listing."""
