"""What the extras of the package bring. Without any it is the client: no torch, no web server.

`pyproject.toml` names the distributions; here are the modules whose import fails without them.
"""

from importlib.util import find_spec

from streambed.errors import SettingsError

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
    "bench": ("matplotlib",),
}
"""The modules that only the extra brings. (Not h11: httpx brings it too.)"""


def require(extra: str) -> None:
    """Raises SettingsError where a module of the extra is missing; imports none. For what a process beside this one needs,
    and for modules that several extras bring."""
    for module in EXTRAS[extra]:
        try:
            found = find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise SettingsError(_missing(extra, module))


def explain(error: ModuleNotFoundError) -> str | None:
    """One line that names the extra and how to install it; None where the missing module is of no extra."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return _missing(extra, module)
    return None


def _missing(extra: str, module: str) -> str:
    return (
        f"this needs the extra [{extra}], which is not installed (no module {module!r}): in a clone of Streambed, "
        f"pip install '.[{extra}]' (README.md: how to get a small PyTorch first)"
    )
