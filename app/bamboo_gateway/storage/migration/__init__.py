"""Migration of all sessions from one store to another: `bamboo migrate data`."""
