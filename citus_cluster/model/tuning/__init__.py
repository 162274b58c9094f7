"""From a machine's memory and processors to the settings of every server, each formula with its source."""
