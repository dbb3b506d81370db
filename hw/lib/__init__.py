"""Hardware that several blocks share."""
