"""Methods of the topic `inspect`, one file each."""
