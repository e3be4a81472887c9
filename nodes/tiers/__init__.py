"""Pure. The tiers below an engine's cache: host memory, local disk, and a store that many workers share."""
