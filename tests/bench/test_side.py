"""Servers that are measured: what is posted to ours and to others."""

from __future__ import annotations

import asyncio

import pytest

from streambed.bench.side import find_side
from streambed.errors import ConnectionLost, SettingsError
from tests.bench.conftest import Other
from tests.server.conftest import Live


def test_ours_says_its_format_and_has_streams(live: Live) -> None:
    async def run() -> None:
        async with await find_side("ours", live.url, "int4") as side:
            assert (side.numbers, side.model) == ("float32", live.model)
            assert await side.embed(["a river", "a stone"]) > 2
            assert await side.embed(["a river"], "Find it") > await side.embed(["a river"])
            grown = await side.grow(" a river")
            await grown.append(" of light")
            await grown.embedding()
            assert live.client.get("/info").json()["stats"]["sessions"] >= 1
            await grown.close()

    asyncio.run(run())


def test_others_get_whole_texts_under_the_models_form(other: Other) -> None:
    async def run() -> None:
        async with await find_side("theirs", other.url, "bfloat16") as side:
            assert (side.numbers, side.model, side.info) == ("bfloat16", "theirs", None)
            assert await side.embed(["a", "b"], "Find it") == 7
            grown = await side.grow(" one")
            await grown.append(" two")
            await grown.append(" three")
            await grown.embedding()
            await grown.close()

    asyncio.run(run())
    assert all((body["model"], body["encoding_format"]) == ("theirs", "base64") for body in other.posted)
    assert [body["input"] for body in other.posted] == [
        ["Instruct: Find it\nQuery:a", "Instruct: Find it\nQuery:b"],
        [" one"],
        [" one two three"],
    ]
    assert not any("instruction" in body for body in other.posted)


def test_what_is_no_answer(other: Other, nowhere: str) -> None:
    async def run() -> None:
        side = await find_side("theirs", other.url)
        assert side.numbers == "?"
        other.spared = 1
        with pytest.raises(ConnectionLost, match="theirs answered 200"):
            await side.embed(["a", "b"])
        other.spared, other.status = 0, 500
        with pytest.raises(ConnectionLost, match="theirs answered 500"):
            await side.embed(["a"])
        await side.close()
        with pytest.raises(SettingsError, match="cannot be reached"):
            await find_side("nobody", nowhere)
        with pytest.raises(SettingsError, match="does not say which models"):
            await find_side("theirs", f"{other.url}/elsewhere")

    asyncio.run(run())
