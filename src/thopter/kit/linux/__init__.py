"""Linux itself by ctypes: system calls, seccomp, capabilities, cgroups, btrfs (standard library only)."""
