"""Batches of features whose bags have one length each, on one device: deduplicated and packed at once."""
