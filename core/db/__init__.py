"""Tables, transactions and queries. The only room that knows SQL."""
