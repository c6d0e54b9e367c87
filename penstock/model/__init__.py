"""model: fit, load, score; when to train. The user's model is duck-typed, a version is a digest."""
