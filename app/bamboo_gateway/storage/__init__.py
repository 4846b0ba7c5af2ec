"""The seam to storage: `base` is the contract, `factory` chooses, a package or file per store."""
