"""Export targets: one writer a file."""
