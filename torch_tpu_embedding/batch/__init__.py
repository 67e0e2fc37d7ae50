"""PLACEHOLDER torch_tpu_embedding/batch"""
