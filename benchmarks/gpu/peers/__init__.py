"""Contestants of bench_gpu.py: modules that `rmexport bench`'s worker loads by their file."""
