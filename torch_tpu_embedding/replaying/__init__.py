"""Training steps whose program is run again without tracing, and the checks that this is right."""
