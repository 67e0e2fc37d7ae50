"""Bytes and files of a checkpoint: safetensors, index, run directory, durable writes."""
