"""The parts of bench_gpu.py: what is measured, on which models, against whom. Nothing here claims a figure."""
