"""PLACEHOLDER torch_tpu_embedding/program"""
