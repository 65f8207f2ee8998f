"""The recipe of the built-in checkpoint, from packages to safetensors. `make builtin-model` runs it; README.md tells
how.
"""
