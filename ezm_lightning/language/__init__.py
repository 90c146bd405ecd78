"""Instructions and what turns them into vectors. No encoder fetches anything: weights lie in an installed package."""
