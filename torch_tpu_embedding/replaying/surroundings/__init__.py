"""Values that a replayed step reads besides its arguments: found in its code, compared before each call."""
