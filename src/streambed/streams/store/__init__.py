"""Where accepted text is kept."""
