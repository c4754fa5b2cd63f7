"""Numbers that say how good a model is; every one with a standard error."""

# Goes up when a measurement changes: what older code has measured is measured again.
VERSION = 4
