"""What a change of the files means: the difference to the disk, and the effect on containers."""
