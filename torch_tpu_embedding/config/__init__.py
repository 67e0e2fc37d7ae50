"""What a user declares: tables, features, quantization, and what follows from them."""
