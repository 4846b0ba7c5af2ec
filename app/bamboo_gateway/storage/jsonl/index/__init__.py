"""The index: which sessions there are, and the lists of them."""
