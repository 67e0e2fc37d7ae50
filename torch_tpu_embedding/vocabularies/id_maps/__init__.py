"""The map of the ids that one device owns: which row each has, when it was used, which goes next."""
