"""Learning sessions: an agent's attempts to improve itself, and what became of each edit."""
