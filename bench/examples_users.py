"""``GET /users/{id}`` of the users example against the same query by psycopg, over as many connections, in turns."""
