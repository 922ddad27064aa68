"""Fixtures, fakes and harnesses that the tests share."""
