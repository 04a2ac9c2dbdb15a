"""Tests of the house around the product: what the documents, the Makefile, the container files and the import
rules claim is held against the code."""
