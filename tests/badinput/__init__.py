"""Bad records among good ones, on real parts: every good one counts, every bad one is a dead letter, nothing ends."""
