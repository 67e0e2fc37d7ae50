"""The MovieLens example: its data, its model and its report; ../train_movielens.py is the program."""
