"""The `streambed` command."""
