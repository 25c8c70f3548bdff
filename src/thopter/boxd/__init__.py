"""What runs in the box: standard library only, Python 3.9 or newer, imports nothing above."""
