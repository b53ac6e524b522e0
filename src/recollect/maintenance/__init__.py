"""What keeps a store in order: checks and what they set right, backups, tidying, erasing for good."""
