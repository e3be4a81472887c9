"""Pure. Placing by what is cached where: the index, the loads, the costs and the choice. No module here does IO."""
