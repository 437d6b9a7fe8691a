"""Games of two players: repeated matrix games, the Logistic Game, the coin game."""
