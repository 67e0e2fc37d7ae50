"""One batch on the device: lookup, update, and the engine that holds both."""
