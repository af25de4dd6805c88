"""Neutral descriptions of forms, figures and cards."""
