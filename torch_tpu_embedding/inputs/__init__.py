"""PLACEHOLDER torch_tpu_embedding/inputs"""
