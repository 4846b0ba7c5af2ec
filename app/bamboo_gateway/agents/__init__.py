"""The seam to what answers: `base` is the contract, `factory` chooses by URL, one file a kind."""
