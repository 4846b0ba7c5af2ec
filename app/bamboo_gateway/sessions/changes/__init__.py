"""What has changed in the sessions of a caller: pages, and a feed for those who wait."""
