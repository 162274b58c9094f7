"""The PostgreSQL 14 pair: its status, a promotion, and the rebuild of a replica."""
