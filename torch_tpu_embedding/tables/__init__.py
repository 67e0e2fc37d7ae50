"""PLACEHOLDER torch_tpu_embedding/tables"""
