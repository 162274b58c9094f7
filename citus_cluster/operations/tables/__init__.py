"""Tables and schemas: lists, and what an operator changes about them."""
