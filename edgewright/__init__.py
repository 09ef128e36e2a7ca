"""Edgewright: trained models to the smallest, fastest files that still meet their accuracy target, and the proof."""
