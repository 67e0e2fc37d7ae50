"""PLACEHOLDER torch_tpu_embedding/monitoring"""
