"""How each primitive becomes operations of the normalised graph, exactly."""
