"""What this machine has: its GPUs, from the CUDA driver, and its free memory."""
