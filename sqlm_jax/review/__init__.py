"""A local web server that shows a run and takes decisions about its votes."""
