"""Sessions of other programs, one file per format."""
