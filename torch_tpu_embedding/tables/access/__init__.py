"""Rows of tables as a user asks for them: by id, as a range, or by their scores for a query."""
