"""What the learned policy is held against: rules on the same solutions, and published systems, one file each."""
