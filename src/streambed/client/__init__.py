"""A server's client, for programs: text in, vectors out, over connections that may break."""
