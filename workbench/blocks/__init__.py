"""Parts that need a loaded model and serve many methods."""
