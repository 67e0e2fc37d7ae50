"""The user's inputs: ids and weights in every form, checked and made into bags; gradients, checked."""
