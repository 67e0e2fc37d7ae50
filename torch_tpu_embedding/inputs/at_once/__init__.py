"""Features whose bags have one length each, read all at once where none needs a look of its own."""
