"""The user's declarations: tables, features, quantization, and the resolved configuration."""
