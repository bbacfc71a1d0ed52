"""Figures: ``style`` is their look, the other modules draw one kind each from records."""
