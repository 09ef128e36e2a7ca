"""Inference on the device: NumPy and one engine, nothing else."""
