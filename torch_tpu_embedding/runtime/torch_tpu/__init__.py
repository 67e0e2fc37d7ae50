"""TorchTPU: the only imports of torch_tpu are in this folder. Its operators run one by one, not traced."""
