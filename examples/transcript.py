"""A transcript of speech that is still being recognised: words arrive, and the last ones are revised.

    make serve                        # in another terminal
    python examples/transcript.py

Speech recognition sends hypotheses, each of which replaces the unfinished end of the previous one. `set` passes each one on
unchanged; the server finds out how much of its beginning is the same and computes the rest. A passage is retrieved each
time the stream emits an embedding, while the speaker is still speaking, and a watch calls for a person as soon as the
conversation turns to cancelling.
"""

import asyncio
import sys

from streambed import AsyncClient, Triggered

PASSAGES = [
    "To reset your password, open the settings and choose Security.",
    "Refunds are paid within five working days of the return.",
    "A contract can be cancelled at the end of any month.",
    "The router's light is red when there is no connection.",
]
HYPOTHESES = [
    "hello",
    "hello I",
    "hello eye have",
    "hello I have a",
    "hello I have a problem with",
    "hello I have a problem with my route",
    "hello I have a problem with my router",
    "hello I have a problem with my router the light",
    "hello I have a problem with my router the light is read",
    "hello I have a problem with my router, the light is red.",
    "hello I have a problem with my router, the light is red. I want",
    "hello I have a problem with my router, the light is red. I want to council",
    "hello I have a problem with my router, the light is red. I want to cancel my contract.",
]
WATCH = {"id": "cancel", "text": "I want to cancel my contract", "threshold": 0.6}


async def main(url: str = "http://127.0.0.1:30000") -> None:
    async with AsyncClient(url) as client:
        vectors = await client.embed(PASSAGES, input_type="document")
        async with client.open_stream(emit="append", watch=[WATCH]) as stream:

            async def listen() -> None:
                async for event in stream:
                    if isinstance(event, Triggered):
                        print(f"  !! {event.watch}: {event.score:.2f}, at {event.offset} characters")
                    else:
                        print(f"  {event.offset:3} characters: {PASSAGES[(vectors @ event.vector).argmax()]}")

            listening = asyncio.create_task(listen())
            for hypothesis in HYPOTHESES:
                await stream.set(hypothesis)
                await asyncio.sleep(0.05)  # the speaker speaks
            result = await stream.embedding()
            best = (vectors @ result.vector).argmax()
            print(f"{stream.text}\n  -> {PASSAGES[best]}")
            usage = result.usage
            print(f"  {usage['cached_tokens']} of {usage['prompt_tokens']} tokens were computed before the last word")
        await listening


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
