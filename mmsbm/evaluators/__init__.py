"""Numbers that say how good a model is; every one with a standard error."""
