"""Weights in bfloat16: how they lie in the lanes of a record, and how they are rounded."""
