"""All SQL for Citus: one module for each noun, one function for each query and each change."""
