"""Branch and bound where a network falls apart over a box into parts that share no pixel."""
