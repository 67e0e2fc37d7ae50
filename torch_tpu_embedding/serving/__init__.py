"""Tables that only look up: the serving module, and its export as a plain module or a program."""
