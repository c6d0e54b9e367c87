"""dataset: rows as they were at (t, O), outcomes, profiles."""
