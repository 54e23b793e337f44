"""What a policy is compared with, and the tables and the figure that come of it; the command is `compare`."""
