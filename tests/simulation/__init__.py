"""A house under a scheduler without clock, network and processes: all that happens is drawn from one seed."""
