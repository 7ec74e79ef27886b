"""All the SQL of the house and nothing but SQL: one module a noun, over one `Tx` with one fixed now."""
