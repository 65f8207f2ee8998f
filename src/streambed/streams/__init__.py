"""What a session is on the wire."""
