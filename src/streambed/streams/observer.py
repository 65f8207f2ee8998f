"""What happens to streams, for whoever counts: metrics on a server, nobody elsewhere."""


class Observer:
    """Counts nothing; metrics do. Called on the event loop, but for `probed` and `committed`, which threads of engine and
    the store call. Must be quick and must not raise."""

    def event(self, kind: str, outcome: str) -> None:
        """A change or an embedding that a client asked for has ended: `ok`, `cancelled` or the code of its error."""

    def probed(self, seconds: float, prompt_tokens: int, cached_tokens: int, computed_tokens: int) -> None:
        """A vector is there: seconds since the last character that it covers, or since it was asked for if that is later."""

    def skipped(self) -> None:
        """An automatic embedding gave way to a newer one."""

    def committed(self, entries: int, refused: int, seconds: float) -> None:
        """The journal has ended a transaction."""
