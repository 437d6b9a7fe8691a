"""Molecules built of blocks: vocabulary, states, rewards, environments."""
