"""Search as you type: every keystroke ranks the answers again, at the cost of computing a few tokens.

    make serve                                  # in another terminal
    python examples/search_as_you_type.py "how many hours does my kitten sleep"

The list is embedded once, and the query after each of its characters. A line is printed whenever the best answer changes.
"""

import sys
import time

from streambed import Client

DOCUMENTS = [
    "Adult cats sleep between twelve and sixteen hours a day.",
    "Bread dough rises faster in a warm kitchen.",
    "The central bank raised interest rates by a quarter of a percent.",
    "Water boils at a lower temperature in the mountains.",
    "The museum is closed on Mondays and on public holidays.",
    "Change the oil of the engine every fifteen thousand kilometres.",
]


def main(query: str, url: str = "http://127.0.0.1:30000") -> None:
    with Client(url) as client:
        vectors = client.embed(DOCUMENTS, input_type="document")
        with client.open_stream(input_type="query") as stream:
            best = None
            for character in query:
                start = time.perf_counter()
                stream.append(character)
                result = stream.embedding()
                milliseconds = (time.perf_counter() - start) * 1000
                scores = vectors @ result.vector
                if best != scores.argmax():
                    best = scores.argmax()
                    print(f"{stream.text!r:40} {milliseconds:5.1f} ms  {scores[best]:.2f}  {DOCUMENTS[best]}")
            usage = result.usage
            print(f"last keystroke: {usage['computed_tokens']} of {usage['prompt_tokens']} tokens computed")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["how many hours does my kitten sleep"]))
