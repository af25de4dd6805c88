"""What a subject or a style is learned from, and the loss terms that keep the rest as it is."""
