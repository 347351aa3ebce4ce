"""Files of a run, with one module for each kind of file."""
