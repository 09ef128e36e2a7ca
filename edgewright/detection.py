"""Detection: from a detector's raw outputs to boxes."""
