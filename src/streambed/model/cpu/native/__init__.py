"""Kernels in C: in a small step PyTorch's operators take longer than the work, in a large one they pass over it again."""
