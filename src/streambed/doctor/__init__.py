"""`streambed doctor`: what is here, whether the model is exact on it, and what is misconfigured."""
