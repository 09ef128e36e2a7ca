"""Ways to a board: one file each, named as a board's profile names it."""
