"""What the gateway is compared with: the hand-written way, and the bare limits."""
