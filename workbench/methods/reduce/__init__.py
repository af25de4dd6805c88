"""Methods of the topic `reduce`, one file each."""
