"""PyTorch/XLA: the only imports of torch_xla are in this folder."""
