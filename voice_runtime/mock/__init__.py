"""Providers without a voice and without ears, for tests of call code."""
