"""Paths, JSON and terminals, as users and files give them."""
