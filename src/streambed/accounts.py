"""Who is next where several want something that only so many can have: the one who has had least.

Max-min fairness. Whoever comes has had as much as the one of those there who has had least, and who has gone is forgotten:
to have worked alone is no debt, and to have been away no credit.
"""

from collections.abc import Collection


class Accounts:
    """What each owner who is there has had, beyond the one who has had least."""

    def __init__(self) -> None:
        self._had: dict[str, float] = {}

    def keep(self, owners: Collection[str]) -> None:
        """These are there now."""
        least = min((self._had[owner] for owner in owners if owner in self._had), default=0.0)
        self._had = {owner: max(self._had.get(owner, least) - least, 0.0) for owner in owners}

    def choose(self, owners: Collection[str]) -> str:
        """Who of these is next; the first one of equals."""
        return min(owners, key=self._had.__getitem__)

    def charge(self, owner: str, amount: float) -> None:
        """An owner has had so much more."""
        self._had[owner] += amount
