"""The example of a stream: data, model and report."""
