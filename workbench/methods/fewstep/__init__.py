"""Methods of the topic `fewstep`, one file each."""
