"""PLACEHOLDER torch_tpu_embedding/training"""
