"""Figures: ``style`` is their look, the other modules make one kind each from records."""
