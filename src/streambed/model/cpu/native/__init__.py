"""Kernels in C for what PyTorch does badly on a CPU: small steps, in which its operators take longer than the work."""
