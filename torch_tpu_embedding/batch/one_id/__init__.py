"""Batches of features with one id a sample, on a single device: deduplicated and packed all at once."""
