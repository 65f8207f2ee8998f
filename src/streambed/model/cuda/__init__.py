"""GPUs of NVIDIA's."""
