"""A local web server to look into a run and to decide about its votes."""
