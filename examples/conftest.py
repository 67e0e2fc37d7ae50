"""Settings for pytest, which looks into examples for doctests."""

collect_ignore = ["first_steps.py"]  # a script from its first line on: tests/docs/ runs it
