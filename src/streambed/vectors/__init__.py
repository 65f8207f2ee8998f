"""After the network."""
