"""Against whom: nbx and the contextual bandits that one can install today, on the same rows in the same order."""
