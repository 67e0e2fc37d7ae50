"""The command `torch-tpu-embedding`."""
