"""Tables: ``table`` is the shape of one, ``formats`` writes it, the other modules fill one table of a paper each."""
