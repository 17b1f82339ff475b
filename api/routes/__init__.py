"""One module a noun; a route body says which service answers."""
