"""From characters to token ids."""
