"""Boards: reach them, put files on them, run there."""
