"""Boards: reach them, put files on them, run there."""

from edgewright.devices.boards import Board, find_board

__all__ = ["Board", "find_board"]
