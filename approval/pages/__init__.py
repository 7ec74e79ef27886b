"""The pages, one noun a file: each route names its right and its site."""
