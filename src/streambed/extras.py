"""What the extras of the package bring. Without any it is the client: no torch, no web server.

`pyproject.toml` names the distributions; the modules here are what importing them fails for where they are not installed.
"""

from __future__ import annotations

EXTRAS = {
    "server": (
        "torch",
        "safetensors",
        "tokenizers",
        "huggingface_hub",
        "fastapi",
        "starlette",
        "uvicorn",
        "prometheus_client",
    ),
    "reduce": ("sklearn", "umap", "matplotlib"),
}
"""The modules that are not there without the extra. (h11 is: httpx brings it.)"""


def explain(error: ModuleNotFoundError) -> str | None:
    """One line that names the extra and how to install it; None where the missing module is of no extra."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return (
                f"this needs the extra [{extra}], which is not installed (no module {module!r}): in a clone of Streambed, "
                f"pip install '.[{extra}]' (README.md: how to get a small PyTorch first)"
            )
    return None
