"""Parts that both trainers share: the training loop, background batches, stop and resume, processes."""
