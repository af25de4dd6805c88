"""Methods of the topic `prune`, one file each."""
