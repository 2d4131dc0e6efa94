"""The resampler: what runs a plan, from its frozen prefixes to a resampled log."""
