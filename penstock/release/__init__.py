"""release: verdicts and live evidence become champion, candidate, shadow, canary; the route."""
