"""Pure data and decisions: no file, socket, clock or random source is touched here."""
