"""The seam to agents: `base` is the contract, `factory` chooses by URL, one file per kind."""
