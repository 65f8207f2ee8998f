"""HTTP in front of the engine: a thin shell."""
