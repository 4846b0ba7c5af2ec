"""The seam to durable truth: `base` is the contract, `factory` chooses, a package a technology."""
