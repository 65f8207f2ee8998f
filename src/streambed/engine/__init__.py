"""The core: which rows run next, where their keys and values live, and who waits for the vectors."""
