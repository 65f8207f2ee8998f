"""The several forms of `input`."""

from typing import Any

from streambed.errors import InvalidRequest
from streambed.limits import MAX_INPUTS
from streambed.text.strings import Empty
from streambed.wire.requests import whole


def parse_input(
    value: Any, accept_token_ids: bool, vocabulary: int, empty: Empty | None = None
) -> list[str] | list[list[int]]:
    """The input as a list of texts or a list of lists of ids.

    empty: "null" keeps texts and lists without anything in them; None refuses them where a request has no such choice.

    Raises:
        InvalidRequest: with the index of the bad item, or all indexes of empty ones in its details.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise InvalidRequest("input is neither a string nor a list", "input")
    if not value:
        raise InvalidRequest("input is an empty list", "input")
    if type(whole(value[0])) is int:
        value = [value]
    if len(value) > MAX_INPUTS:
        raise InvalidRequest(f"input has {len(value)} items; at most {MAX_INPUTS} are allowed", "input")
    if isinstance(value[0], str):
        for index, text in enumerate(value):
            if not isinstance(text, str):
                raise InvalidRequest(f"input[{index}] is not a string, as the items before it are", f"input[{index}]")
    else:
        value = [_ids(ids, index) for index, ids in enumerate(value)]
        if not accept_token_ids and any(value):
            raise InvalidRequest(
                "input holds token ids, and this server takes text: ids of another tokenizer (LangChain sends tiktoken's) "
                "would give wrong vectors without an error. In LangChain set check_embedding_ctx_length=False; for ids of "
                "this very model start the server with --accept-token-ids",
                "input",
            )
        for index, ids in enumerate(value):
            if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
                raise InvalidRequest(f"input[{index}] has a token id outside 0..{vocabulary - 1}", f"input[{index}]")
    nothing = [index for index, item in enumerate(value) if not item]
    if nothing and empty != "null":
        what = "string" if isinstance(value[0], str) else "list"
        raise _empty(nothing, what, '; empty: "null" would give null there' if empty else "")
    return value  # type: ignore[no-any-return]


def _ids(value: Any, index: int) -> list[int]:
    if isinstance(value, list):
        value = value if all(type(token) is int for token in value) else list(map(whole, value))
        if all(type(token) is int for token in value):
            return value  # type: ignore[no-any-return]
    raise InvalidRequest(f"input[{index}] is neither a string nor a list of token ids", f"input[{index}]")


def _empty(indexes: list[int], what: str, hint: str) -> InvalidRequest:
    names = [f"input[{index}]" for index in indexes]
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    are = f"is an empty {what}" if len(names) == 1 else f"are empty {what}s"
    error = InvalidRequest(f"{', '.join(names[:10])}{more} {are}{hint}", names[0])
    error.details = {"indexes": indexes}
    return error
