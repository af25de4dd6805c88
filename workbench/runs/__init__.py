"""Execute plans, keep runs."""
