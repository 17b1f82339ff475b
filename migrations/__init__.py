"""How the schema came to be: one file a change, applied in order, never edited once released.

Migrations expand before they contract, so that the old and the new version can run side by side. There is no way
down: a newer database is refused by older code.
"""
