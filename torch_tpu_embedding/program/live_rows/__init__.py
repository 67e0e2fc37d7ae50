"""Rows that ids get and lose while a table trains: sent with a batch, written as it is looked up."""
