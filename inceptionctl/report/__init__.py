"""Pictures of what runs have measured."""
