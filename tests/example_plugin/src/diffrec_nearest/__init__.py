"""A model for diffrec. Nothing is imported here, so that its name costs nothing."""
