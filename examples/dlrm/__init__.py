"""The DLRM example: its data, its model and its report; ../train_dlrm.py is the program."""
