"""All SQL for Citus: one module for each noun, one function for each question and each change."""
