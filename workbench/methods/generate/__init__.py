"""Methods of the topic `generate`, one file each."""
