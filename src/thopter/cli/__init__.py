"""The command line: thin, quick to start, one file a command group, loaded on use."""
