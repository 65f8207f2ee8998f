"""What the extras of the package bring. Without any it is the client: no torch, no web server.

`pyproject.toml` names the distributions; here are the modules whose import fails without them.
"""

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
"""The modules that only the extra brings. (Not h11: httpx brings it too.)"""


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
