"""Studies: a claim's arms, trained and played on the same recorded debates, and what they say of the claim."""
