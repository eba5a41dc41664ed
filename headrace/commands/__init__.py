"""The commands, one a module; each has `register`. What takes long to import is imported when a command runs."""
