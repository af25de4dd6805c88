"""Methods of the topic `retouch`, one file each."""
