"""What is shipped with Headrace: the run-time part of the lock, and what is known against it."""
