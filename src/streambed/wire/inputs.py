"""The several forms of `input`."""

from __future__ import annotations

from streambed.errors import InvalidRequest
from streambed.wire.requests import MAX_INPUTS


def parse_input(value: object, accept_token_ids: bool, vocabulary: int) -> list[str] | list[list[int]]:
    """The input as a list of texts or a list of lists of ids. Raises InvalidRequest with the index of the bad item."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise InvalidRequest("input is neither a string nor a list", "input")
    if not value:
        raise InvalidRequest("input is an empty list", "input")
    if isinstance(value[0], int) and not isinstance(value[0], bool):
        value = [value]
    if len(value) > MAX_INPUTS:
        raise InvalidRequest(f"input has {len(value)} items; at most {MAX_INPUTS} are allowed", "input")
    if isinstance(value[0], str):
        for index, text in enumerate(value):
            if not isinstance(text, str):
                raise InvalidRequest(f"input[{index}] is not a string, as the items before it are", f"input[{index}]")
            if not text:
                raise InvalidRequest(f"input[{index}] is an empty string", f"input[{index}]")
        return value
    for index, ids in enumerate(value):
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise InvalidRequest(f"input[{index}] is neither a string nor a list of token ids", f"input[{index}]")
        if not ids:
            raise InvalidRequest(f"input[{index}] is an empty list", f"input[{index}]")
        if not accept_token_ids:
            raise InvalidRequest(
                "input holds token ids, and this server takes text: ids of another tokenizer (LangChain sends tiktoken's) "
                "would give wrong vectors without an error. In LangChain set check_embedding_ctx_length=False; for ids of "
                "this very model start the server with --accept-token-ids",
                "input",
            )
        if min(ids) < 0 or max(ids) >= vocabulary:
            raise InvalidRequest(f"input[{index}] has a token id outside 0..{vocabulary - 1}", f"input[{index}]")
    return value
