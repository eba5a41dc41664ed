"""Bytes that nobody wrote, given to every decoder: only the error that it documents may come out."""
