"""One file a topic: `bench(options) -> (bundle, {name: Way})`, found by its name."""
