"""PLACEHOLDER torch_tpu_embedding/io"""
