"""Methods of the topic `measure`, one file each."""
