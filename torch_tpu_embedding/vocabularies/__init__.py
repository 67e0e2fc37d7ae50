"""Ids of any kind made into rows: strings into numbers, numbers into rows of a table."""
