"""What runs on a host for one controller's connection: the launcher and its processes."""
