"""The commands, a module each, with `register`. What takes long to import is imported when a command runs."""
