"""Texts of exactly so many tokens, none of which a server has seen before."""

import numpy as np

_WORDS = (
    "river stone light paper music green seven cloud train apple house water table garden bread morning window summer "
    "winter north south market bridge island forest horse silver orange letter story number doctor teacher kitchen "
    "street school friend family mother father brother sister planet engine ocean field valley evening yellow purple "
    "basket bottle button candle cotton copper corner desert dinner finger flower "
    "hammer jacket ladder lemon mirror needle sailor shadow signal spider spring sugar ticket whale wheel wooden"
)
WORDS = _WORDS.split()
"""With a space before it each is one token, in the vocabulary of Qwen as in that of the built-in model."""
END = 1
"""The end token that servers put after each text; it is counted."""


class Texts:
    """Draws words evenly and independently. Two texts share their first three words once in 400,000 times, so
    no server finds the beginning of one among those of others."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def words(self, number: int) -> str:
        """So many words, a space before each: so many tokens."""
        return "".join(f" {word}" for word in self._random.choice(WORDS, number))

    def text(self, tokens: int) -> str:
        """A text of so many tokens with its end token, 2 or more."""
        return self.words(tokens - END)

    def texts(self, number: int, least: int, most: int) -> list[str]:
        """So many texts, each of `least` to `most` tokens; short ones are as frequent as ones of twice the size (evenly over
        the logarithm)."""
        sizes = np.exp(self._random.uniform(np.log(least), np.log(most + 1), number))
        return [self.text(min(int(size), most)) for size in sizes]

    def arrivals(self, rate: float, seconds: float) -> list[float]:
        """When what comes at random comes, `rate` times a second: seconds from the start, rising (a Poisson process)."""
        found: list[float] = []
        at = 0.0
        while (at := at + float(self._random.exponential(1 / rate))) < seconds:
            found.append(at)
        return found


def tokens_of(text: str) -> int:
    """Tokens of a text that was drawn here, with its end token."""
    return text.count(" ") + END
