"""Lookup and update where the backend runs operators one by one: compiled as functions."""
