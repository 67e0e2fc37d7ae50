"""The order of a training loop's calls."""
