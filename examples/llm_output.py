"""The answer of a language model, embedded while it is being written.

    make serve                        # in another terminal
    python examples/llm_output.py

The embedding of the whole answer is ready shortly after its last token. On the way there is one for each sentence, unless
the next sentence overtook it, so a guard can see where an answer is heading before it ends. The tokens here come from a
generator; those of a real model come from `chat.completions.create(..., stream=True)`.
"""

import sys
import threading
import time
from collections.abc import Iterator

import numpy as np

from streambed import Client, Emitted
from streambed.client.client import Stream

QUESTION = "How should I store potatoes?"
ANSWER = (
    "Keep potatoes in a cool, dark and airy place, such as a cellar. Light turns them green and bitter. "
    "Do not put them in the fridge: the cold turns their starch into sugar. "
    "Keep onions elsewhere, because they make potatoes sprout."
)


def generate() -> Iterator[str]:
    """The tokens of an answer, as a model would give them."""
    for word in ANSWER.split(" "):
        time.sleep(0.02)
        yield word + " "


def listen(stream: Stream, question: np.ndarray) -> None:
    """Prints what comes while the answer is being written."""
    for event in stream:
        if isinstance(event, Emitted):
            print(f"after {event.offset} characters: {question @ event.vector:.2f}")


def main(url: str = "http://127.0.0.1:30000") -> None:
    with Client(url) as client:
        question = client.embed(QUESTION)[0]
        # An embedding for each sentence as soon as it ends, and one for the whole when the writing stops.
        with client.open_stream(emit={"on": "sentence", "pause_ms": 100}) as stream:
            listener = threading.Thread(target=listen, args=(stream, question), daemon=True)
            listener.start()
            for token in generate():
                stream.append(token)
            done = time.perf_counter()
            result = stream.embedding()
            waited = (time.perf_counter() - done) * 1000
        listener.join()  # the stream is closed, so it has nothing more to print
        print(f"embedded {waited:.1f} ms after its last token; to the question: {question @ result.vector:.2f}")
        whole = client.embed(stream.text)[0]
        print(f"posted as a whole it has the same vector: {whole @ result.vector:.6f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
