"""A server that is measured: ours, or any other that speaks OpenAI's embeddings API."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import httpx
import orjson

from streambed.client.aclient import AsyncClient
from streambed.client.address import Address
from streambed.errors import ConnectionLost, SettingsError
from streambed.text.instructions import QWEN_TEMPLATE

TIMEOUT = 600.0
"""Seconds that an answer may take."""
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None)
"""None, so that no request waits in the client."""


class Growing(Protocol):
    """A text that grows on a server."""

    async def append(self, text: str) -> None:
        """Adds to its end; waits for nothing."""

    async def embedding(self) -> None:
        """Until the embedding of all that was appended is there."""

    async def close(self) -> None:
        """Ends it."""


@dataclass(frozen=True)
class Side:
    """One server. Make it by `find_side`."""

    name: str
    numbers: str
    """Number format of its weights; `?` where nobody said."""
    model: str
    http: httpx.AsyncClient
    info: Mapping[str, Any] | None
    """What `/info` of a Streambed says; None for other servers."""
    client: AsyncClient | None
    """For streams, of a Streambed."""

    async def embed(self, texts: Sequence[str], instruction: str | None = None) -> int:
        """Posts them in one request. Returns the number of tokens that the server counted, 0 if it did not say.

        instruction: goes as a field where the server knows it, otherwise in the model's form before each text.

        Raises:
            ConnectionLost: there is no answer, or not one with as many embeddings.
        """
        body: dict[str, Any] = {"model": self.model, "input": list(texts), "encoding_format": "base64"}
        if instruction is not None and self.info is not None:
            body["instruction"] = instruction
        elif instruction is not None:
            before = QWEN_TEMPLATE.replace("{instruction}", instruction)
            body["input"] = [f"{before}{text}" for text in texts]
        headers = {"Content-Type": "application/json"}
        try:
            reply = await self.http.post("/v1/embeddings", content=orjson.dumps(body), headers=headers)
            value = orjson.loads(reply.content)
            if reply.status_code != 200 or len(value["data"]) != len(texts):
                raise ConnectionLost(f"{self.name} answered {reply.status_code}: {reply.text[:300]}")
            return int((value.get("usage") or {}).get("prompt_tokens") or 0)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ConnectionLost(f"{self.name}: no answer with embeddings: {type(error).__name__} {error}") from None

    async def grow(self, text: str) -> Growing:
        """A text that begins so: a stream where there are such, otherwise one that is posted as a whole each time."""
        grown: Growing = _Posted(self) if self.client is None else _Stream(self.client)
        await grown.append(text)
        await grown.embedding()
        return grown

    async def close(self) -> None:
        """Closes the connections."""
        await self.http.aclose()
        if self.client is not None:
            await self.client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def find_side(name: str, url: str, numbers: str | None = None, api_key: str | None = None) -> Side:
    """Asks a server what it serves. numbers: as somebody says who knows; a Streambed says it itself.

    Raises:
        SettingsError: there is no such server.
    """
    address = Address(url, api_key)
    http = address.open_http(TIMEOUT, LIMITS)
    try:
        model = (await _get(http, name, "/v1/models"))["data"][0]["id"]
        info: Mapping[str, Any] | None = await _get(http, name, "/info")
    except (LookupError, TypeError):
        await http.aclose()
        raise SettingsError(f"{name}: {url} does not say which models it serves") from None
    except SettingsError:
        await http.aclose()
        raise
    if info is None or "kv_bytes_per_token" not in info:
        return Side(name, numbers or "?", model, http, None, None)
    client = AsyncClient(url, api_key=api_key, model=model, timeout=TIMEOUT)
    quantized = info.get("quantize", "none")
    return Side(name, info["dtype"] if quantized == "none" else quantized, model, http, info, client)


async def _get(http: httpx.AsyncClient, name: str, path: str) -> Any:
    """A JSON answer; None where the server knows no such path."""
    try:
        reply = await http.get(path)
        return orjson.loads(reply.content) if reply.status_code == 200 else None
    except orjson.JSONDecodeError:
        return None
    except httpx.HTTPError as error:
        raise SettingsError(f"{name}: {http.base_url} cannot be reached: {error}") from None


class _Stream:
    def __init__(self, client: AsyncClient) -> None:
        self._stream = client.open_stream()

    async def append(self, text: str) -> None:
        await self._stream.append(text)

    async def embedding(self) -> None:
        await self._stream.embedding()

    async def close(self) -> None:
        await self._stream.aclose()


class _Posted:
    def __init__(self, side: Side) -> None:
        self._side = side
        self._text = ""

    async def append(self, text: str) -> None:
        self._text += text

    async def embedding(self) -> None:
        await self._side.embed([self._text])

    async def close(self) -> None:
        pass
