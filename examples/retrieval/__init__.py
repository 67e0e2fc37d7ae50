"""The retrieval example: data, model, baselines, report, export; ../train_retrieval.py is the program."""
