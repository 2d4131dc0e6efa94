"""AXPO: which failed calls to sample again, and what their continuations are worth (arXiv:2605.28774)."""
