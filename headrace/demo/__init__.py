"""The demo: a small town of card holders and shops, and the whole loop at work on it."""
