"""The generated directory on the disk: files, secrets, the journal, and the files that belong to the program."""
