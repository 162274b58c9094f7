"""Use cases: each operation plans, then executes, and reports events while it runs."""
