"""Methods of the topic `compose`, one file each."""
