"""When to try again."""

import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime


def backoff(attempt: int) -> float:
    """Seconds before the next attempt: a tenth, doubled up to five, and less by chance so that not all come at once."""
    ceiling: float = min(5.0, 0.1 * 2 ** min(attempt, 10))
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a busy server asks to wait, as a number or a date; 0 where it says nothing that can be read."""
    value = headers.get("Retry-After", "").strip()
    try:
        return float(value) if value.isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return 0.0
