"""Looking at a run: metrics, their writers, the host's trace, a description of the tables."""
