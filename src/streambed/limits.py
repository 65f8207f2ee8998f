"""Fixed limits that a client can meet, in one table that docs/settings.md prints. What a setting bounds is in `settings`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """A row."""

    name: str
    value: float
    unit: str
    meaning: str


# Each row gives its value the name by which the code that keeps the limit imports it.
LIMITS = (
    Limit("Head of a request", (HEAD_BYTES := 64 << 10), "bytes", "A longer one is answered with `headers_too_large`."),
    Limit(
        "Path and query of a request",
        (TARGET_BYTES := 16 << 10),
        "bytes",
        "Longer ones are answered with `uri_too_long`.",
    ),
    Limit(
        "Time for a head",
        (HEAD_SECONDS := 10.0),
        "seconds",
        "From the start of a connection, or from the first byte on it after a reply. Then it is closed.",
    ),
    Limit(
        "Silent connections",
        (MAX_SILENT := 256),
        "connections",
        "That have not said a whole head. One more ends the one that has been silent for longest.",
    ),
    Limit(
        "Refused bodies",
        (MAX_LINGERING := 8),
        "requests",
        "Of one key, whose bodies are read to the end after they were refused. Of more at once, answers may be lost.",
    ),
    Limit("Time for a body", (BODY_SECONDS := 30.0), "seconds", "Then the answer is 400."),
    Limit(
        "Body for a session",
        (SESSION_BODY := 2 << 20),
        "bytes",
        "Requests below `/v1/sessions`; `--max-body` counts for all others. The answer is `too_large`.",
    ),
    Limit("Body of `POST /playground/key`", (KEY_BODY := 16 << 10), "bytes", "The same."),
    Limit(
        "Keys of a body or frame",
        (MAX_KEYS := 2048),
        "keys",
        "Of JSON, in all its objects, known or not. One more is answered with `invalid_request`, before the rest has come.",
    ),
    Limit(
        "Items of a body or frame",
        (MAX_ITEMS := (1 << 20) + (1 << 18)),
        "items",
        "In all its lists, such as token ids, and strings. The same.",
    ),
    Limit("Depth of a body or frame", (MAX_DEPTH := 32), "levels", "Of lists and objects in one another. The same."),
    Limit("Time to read", (READ_SECONDS := 60.0), "seconds", "A client that reads nothing for so long is dropped."),
    Limit("Inputs", (MAX_INPUTS := 2048), "texts", "Of one request for embeddings, as OpenAI has it."),
    Limit("Prefixes", (MAX_PREFIXES := 2048), "places", "Of one request for prefix embeddings."),
    Limit(
        "Tokens that wait",
        (MAX_QUEUED_TOKENS := 1 << 20),
        "tokens",
        "Of all requests and sessions. More are refused with `overloaded`; an idle engine takes any request.",
    ),
    Limit(
        "Characters of a token",
        (CHARACTERS_PER_TOKEN := 32),
        "characters",
        "More than any text has on average: a text longer than the window times this is refused without tokenising it.",
    ),
    Limit("Watches", (MAX_WATCHES := 64), "watches", "Of one session."),
    Limit("Event id", (MAX_EVENT_ID := 64), "characters", "Of `event_id`."),
    Limit(
        "Frame",
        (MAX_FRAME_BYTES := 1 << 20),
        "bytes",
        "A larger one from a client ends the WebSocket, with close code 1009.",
    ),
    Limit(
        "Frames without a message",
        (FRAMES_PER_SECOND := 256),
        "a second",
        "Of one WebSocket: pings, pongs, pieces of a message, empty ones. More close it, with code 1008.",
    ),
    Limit("Such frames at once", (FRAME_BURST := 2048), "frames", "After a time with fewer."),
    Limit(
        "Bytes of a WebSocket",
        (SOCKET_BYTES_PER_SECOND := 16 << 20),
        "bytes a second",
        "From the client. More close it, with code 1008.",
    ),
    Limit("Bytes of a WebSocket at once", (SOCKET_BURST := 64 << 20), "bytes", "After a time with fewer."),
    Limit(
        "Events that wait",
        (MAX_WAITING := 1024),
        "events",
        "Of one session, while its text is being changed. Then no more are read from its WebSocket; over HTTP one more is "
        "refused with `overloaded`.",
    ),
    Limit(
        "Changes that are not on disk",
        (MAX_UNCOMMITTED := 1024),
        "changes",
        "Of one session with `--journal`, and of those that wait. More are not read from its WebSocket; over HTTP one more "
        "is refused with `overloaded`.",
    ),
    Limit(
        "Changes that are remembered",
        (HISTORY := 1024),
        "changes",
        "Of one session: so far back a change that is sent again is known to be the same one.",
    ),
    Limit(
        "Events that a client has not read",
        (MAX_UNSENT := 256),
        "events",
        "Of one WebSocket. Until the client reads, no more of its own events are read.",
    ),
    Limit("Time to take an event", (STALL_SECONDS := 60.0), "seconds", "Then the WebSocket is dropped."),
    Limit("Between pings", (PING_SECONDS := 20.0), "seconds", "And so long for the answer to one, on a WebSocket."),
    Limit("Named keys", (MAX_NAMED_KEYS := 1000), "names", "In the file of `--api-keys`."),
    Limit("Visit", (VISIT_SECONDS := 12 * 3600), "seconds", "How long the page's cookie stands for a key."),
    Limit("Visits", (MAX_VISITS := 1024), "visits", "One more ends the one that was unused for longest."),
)
