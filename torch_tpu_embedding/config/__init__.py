"""PLACEHOLDER torch_tpu_embedding/config"""
