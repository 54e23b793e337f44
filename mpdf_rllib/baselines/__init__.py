"""Simple rules on the same solutions, one file a family, that the learned policy is held against."""
