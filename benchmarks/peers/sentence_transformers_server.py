"""sentence-transformers behind OpenAI's `POST /v1/embeddings`, for `streambed bench --compare`. It has no server of its own.

    python sentence_transformers_server.py MODEL --port 8001
    python sentence_transformers_server.py MODEL --port 8002 --backend openvino

Needs sentence-transformers, starlette and uvicorn; no Streambed. One request at a time, each as one call of `encode`:
clients that send at once wait for each other.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
from typing import Any

import torch
import uvicorn
from sentence_transformers import SentenceTransformer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def application(model: Any, name: str) -> Starlette:
    """The two routes that a client needs."""
    one_at_a_time = asyncio.Lock()

    def encode(texts: list[str]) -> Any:
        with torch.inference_mode():
            return model.encode(texts, normalize_embeddings=True, show_progress_bar=False, batch_size=32)

    async def models(request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"}]})

    async def embeddings(request: Request) -> JSONResponse:
        texts = (await request.json())["input"]
        async with one_at_a_time:
            vectors = await asyncio.to_thread(encode, texts if isinstance(texts, list) else [texts])
        data = [
            {"object": "embedding", "index": index, "embedding": base64.b64encode(vector.astype("<f4")).decode()}
            for index, vector in enumerate(vectors)
        ]
        return JSONResponse({"object": "list", "model": name, "data": data})

    return Starlette(routes=[Route("/v1/models", models), Route("/v1/embeddings", embeddings, methods=["POST"])])


def main() -> None:
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a directory")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"], help="of the torch backend")
    parser.add_argument("--backend", default="torch", choices=["torch", "openvino"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    more = {"dtype": getattr(torch, options.dtype)} if options.backend == "torch" else {}
    model = SentenceTransformer(options.model, device="cpu", backend=options.backend, model_kwargs=more)
    uvicorn.run(application(model, options.model), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
