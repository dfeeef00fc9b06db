"""Claims that hold for every input: invariances, gradients, limits, equivalences, cost."""
