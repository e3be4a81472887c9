"""Pure. The roles of the mesh. Components (`mesh.Component`) need none of them; the serving roles live here."""
