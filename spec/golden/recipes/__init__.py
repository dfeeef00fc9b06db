"""Generators of the frozen arrays, a module a topic; none imports the implementation."""
