"""Pure functions from values to text. They read no store, no clock and no terminal: what they need is an argument."""
