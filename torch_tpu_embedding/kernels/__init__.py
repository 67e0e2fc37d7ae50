"""Kernels for the TPU, as text: what Pallas would lower, shipped so that nothing here needs jax."""
