"""Methods of the topic `erase`, one file each."""
