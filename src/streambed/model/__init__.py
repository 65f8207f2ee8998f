"""From a checkpoint to hidden states."""
