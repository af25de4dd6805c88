"""Methods of the topic `decode`, one file each."""
