"""Episodes played for scores, and videos of them."""
