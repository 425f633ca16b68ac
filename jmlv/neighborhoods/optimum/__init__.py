"""How large a robust neighbourhood can be at most: upper bounds on sizes, proven."""

from jmlv.neighborhoods.optimum.upper_bound import SizeUpperBound, size_upper_bound
