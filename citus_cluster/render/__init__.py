"""Pure rendering: a topology becomes the bytes of files. Nothing is read or written here."""
