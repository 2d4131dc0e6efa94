"""AXPO: where a policy that failed with its tools is sampled again, and with what server (arXiv:2605.28774)."""
