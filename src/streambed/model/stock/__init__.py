"""Plain PyTorch: what every faster way is measured against, and what runs where none was written."""
