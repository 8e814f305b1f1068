"""What this machine has: GPUs by the CUDA driver, and memory of the host."""
