"""What a user feeds: ids and weights in every form, checked into bags; gradients likewise."""
