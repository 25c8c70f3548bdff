"""The git gateway: boxes clone from mirrors and push their own branch, by real git, and nothing else."""
