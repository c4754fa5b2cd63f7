"""What config files share: their arguments, their sections, the recipes of methods."""
