"""Measuring: how close two models are, how fast, how small."""
