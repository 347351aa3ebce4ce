"""The modes of the command line that run a model."""
