"""A training step whose program is run again without tracing: what may change between two runs, and checks."""
