"""serve: HTTP/1.1 itself: bytes of a connection into calls, answers into bytes, and nothing of what they mean."""
