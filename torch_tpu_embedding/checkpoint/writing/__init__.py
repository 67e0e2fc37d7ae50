"""How a step is written, committed and retired."""
