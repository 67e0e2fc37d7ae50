"""One batch on the host: deduplicated, padded to static sizes, written into buffers."""
