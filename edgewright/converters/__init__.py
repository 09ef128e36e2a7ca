"""Model formats in and out: readers, writers and what they share."""
