"""Commands of files: uploads, downloads, and the sweep that removes what no session names."""
