"""How a step is found, checked, matched to an embedding and read."""
