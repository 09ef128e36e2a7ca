"""This package's version; a module of its own, so that what asks for it depends on nothing else."""

__all__ = ["__version__"]

__version__ = "0.1.0"
