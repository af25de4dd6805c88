"""One folder a topic, one file a method."""
